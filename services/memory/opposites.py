"""Words for direction: what the polarity guard knows. Tables only; the rule is in polarity.py.

A word may stand on several axes ("drop a table", "drop the price"). Phrasal verbs are written verb_particle.
"""


def _each(words: str) -> frozenset[str]:
    return frozenset(words.split())


AXES: tuple[tuple[str, str], ...] = (
    (
        "start begin began begun launch boot resume continue unpause keep run enable activate engage on turn_on "
        "switch_on power_on bring_up spin_up wake wake_up arm plug_in commission recommission reactivate reenable",
        "stop end halt terminate pause suspend abort finish kill disable deactivate disengage off turn_off switch_off "
        "power_off shut_down bring_down spin_down take_down tear_down sleep hibernate disarm unplug decommission quit",
    ),
    (
        "add insert create attach append include install keep retain register invite assign join put_in put_on "
        "take_on enlist enrol reinstall recreate leave_in save preserve",
        "remove delete detach drop exclude uninstall erase purge take_off take_out leave_out unassign kick_out "
        "throw_out take_away throw_away deregister discard destroy wipe truncate prune strip give_up get_rid "
        "evict expel undo except",
    ),
    (
        "set book schedule reserve confirm arrange plan rebook",
        "cancel call_off release unbook unschedule postpone revoke",
    ),
    ("fill load populate warm preload refill", "empty clear flush drain unload"),
    (
        "open reopen unlock unblock release unseal uncover",
        "close shut closure lock block seal lock_down reclose",
    ),
    (
        "increase raise grow grew expand enlarge extend lengthen widen bump boost double triple lift more higher "
        "bigger larger longer wider max maximum most highest largest biggest longest widest top up turn_up bring_up "
        "put_up go_up upward upgrade upscale scale_up bring_forth brighten heighten maximise maximize high long "
        "at_least over above exceed rise rising tall gain thicken deepen steepen",
        "decrease reduce lower shrink shrank lessen shorten narrow cut drop diminish halve fewer less smaller shorter "
        "narrower min minimum least lowest smallest shortest fewest tiniest bottom down turn_down bring_down put_down "
        "go_down downward downgrade downscale scale_down dim minimise minimize low short at_most under below trim "
        "fall falling lose curb cut_down cut_back tiny thin",
    ),
    ("tighten harden strict stricter tight", "relax loosen soften ease lax loose"),
    ("big large huge", "small little tiny"),
    ("best better good", "worst worse bad"),
    ("expensive priciest pricey dear costly", "cheap inexpensive"),
    ("nearest near closest", "farthest furthest far distant"),
    ("strong", "weak"),
    ("many", "few"),
    ("put_in bring_in take_in move_in", "put_out bring_out take_out move_out"),
    ("bright brighten", "dark darken dim"),
    (
        "allow permit grant accept approve let authorise authorize whitelist trust welcome unban pardon",
        "deny forbid prohibit block revoke reject refuse decline ban disallow blacklist distrust prevent veto "
        "turn_down bar",
    ),
    (
        "connect join pair link log_in sign_in opt_in check_in enter",
        "disconnect leave unpair unlink log_out log_off sign_out opt_out check_out exit",
    ),
    ("show shown reveal display expose publish unhide unmask", "hide hid hidden conceal unpublish mask redact"),
    ("compress zip pack archive", "decompress unzip unpack extract unarchive restore"),
    ("encrypt encode", "decrypt decode"),
    ("mount", "unmount umount eject"),
    ("backup back_up save", "restore discard"),
    ("push upload export send share outgoing outbound", "pull download import receive fetch incoming inbound"),
    ("subscribe follow", "unsubscribe unfollow"),
    ("like upvote", "dislike downvote"),
    ("before prior", "after afterwards"),
    ("earlier earliest first", "later latest last"),
    ("old oldest older", "new newest newer latest"),
    ("early", "late"),
    (
        "success succeed succeeded successful successfully passed",
        "failure fail unsuccessful unsuccessfully failing",
    ),
    ("online available up alive", "offline unavailable down dead"),
    ("buy bought purchase", "sell sold"),
    ("lend lent", "borrow"),
    ("deposit repay pay_in pay_off pay_back", "withdraw withdrew borrow"),
    ("charge", "refund reimburse"),
    ("hire recruit employ", "fire lay_off dismiss"),
    ("win won gain earn", "lose lost spend"),
    ("hot warm heat warm_up heat_up hotter warmer", "cold cool cool_down cooler colder chill"),
    ("speed_up accelerate fast quick quickly hasten", "slow_down decelerate slow slowly delay"),
    ("mute silence", "unmute"),
    ("freeze", "unfreeze thaw"),
    ("deploy release roll_out merge redo", "undeploy roll_back revert rollback unmerge undo back_out"),
    ("promote", "demote"),
    ("pin star flag", "unpin unstar unflag clear"),
    ("quarantine isolate hold_back withhold", "release deliver send"),
    ("public", "private"),
    ("internal inside inner", "external outside outer"),
    ("left", "right"),
    ("manual manually", "automatic automatically"),
    ("read-only readonly", "writable read-write writeable"),
    ("synchronous synchronously sync", "asynchronous asynchronously async"),
    ("ascending", "descending"),
    ("answer reply respond", "ignore"),
    ("arrive arrival", "depart departure"),
    ("inflate", "deflate"),
    ("all every everything everyone everybody", "none nothing nobody"),
    ("true", "false"),
    ("positive", "negative"),
    ("import into_import", "export"),
    ("primary", "secondary"),
    ("major", "minor"),
)

NEGATIONS = frozenset(
    {
        *("not", "no", "never", "none", "nothing", "nobody", "without", "neither", "nor", "cannot", "unless"),
        *("avoid", "refrain", "skip", "omit", "forget", "bypass", "lacking", "lack", "lacks"),
        *("avoiding", "skipping", "omitting", "forgetting", "bypassing", "skips", "avoids"),
        *("cant", "dont", "doesnt", "didnt", "wont", "wouldnt", "shouldnt", "couldnt", "mustnt", "neednt"),
        *("isnt", "arent", "wasnt", "werent", "hasnt", "havent", "hadnt", "aint"),
    }
)

PHRASES: tuple[tuple[str, str], ...] = (
    (r"\b(?:nobody|no one|none|nothing) (?:but|except)\b", "only"),
    (r"\bup to (?=\d)", "at_most "),
    (r"\b(?:is|are|was|does|do|did)(?: not|nt) (?:work|working|respond|responding)\b", "broken"),
    (r"\b(?:i|we) (?:can ?not|cant)\b", " "),
    (r"\b(?:no|not) (?:more|greater|higher|longer|larger|later) than\b", "at_most"),
    (r"\b(?:no|not) (?:less|fewer|lower|smaller|shorter) than\b", "at_least"),
    (r"\bat (?:the )?most\b", "at_most"),
    (r"\bat (?:the )?least\b", "at_least"),
    (r"\b(?:all|everyone|everything|everybody|nothing|nobody|anyone) (?:but|except(?: for)?)\b", "except"),
    (r"\bfail(?:s|ed|ing)? to\b", "not"),
    (r"\bkeep (?:\w+ )?quiet\b", "not tell"),
    (r"\bnot only\b|\bno matter\b|\bno one but\b|\bif not\b|\bor not\b|\bnothing to do with\b", " "),
    (r"\bmost (?=recent)", ""),
    (r"\bleast (?=recent)", "old "),
    (r"\bno longer\b", "not"),
    (r"^\W*(?:no|nope|yes)\s*,", " "),
    (
        r"\b(?:i|we) (?:really )?(?:do not|dont|can ?not|cant|could not|couldnt) "
        r"(?:know|remember|recall|understand|find|see|think|believe)\b|\bnot sure\b",
        " ",
    ),
    (r"\bwhy (?:dont|not|wont)\b|\b(?:wont|wouldnt|couldnt|cant) you\b|\b(?:isnt|doesnt|wont) it\b", " "),
)
"""Rewritten before anything else."""

PARTICLES = frozenset({"on", "off", "up", "down", "in", "into", "onto", "out", "back", "away", "forth", "rid"})
_SAME = {"into": "in", "onto": "on", "log_on": "log_in", "sign_on": "sign_in", "close_down": "shut_down"}

BENIGN = _each(
    "set_up clean_up look_up follow_up free_up sum_up roll_up make_up pick_up tidy_up catch_up end_up check_up sign_up "
    "write_down note_down break_down track_down narrow_down based_on report_on depend_on act_on work_on put_back "
    "check_on find_out try_out carry_out point_out print_out fill_out fill_in keep_on look_into take_back move_on "
    "go_on hold_on back_up build_up let_down start_up hand_over send_on pass_on rely_on wait_on call_back write_back "
    "go_in"
)
"""Verb and particle whose particle is no direction."""

VERBS = _each(
    "turn switch power speed slow bring take put leave lay log sign opt check plug give call roll tear shut wake scale "
    "spin cut back pay hold kick throw go get warm heat cool lock set clean look follow free sum make pick tidy catch "
    "write note track base report depend act work find try carry point print fill keep move build let start hand send "
    "pass rely wait take narrow break end close open"
)
"""Verbs that a particle further on may belong to."""

NOUNS_TOO = _each(
    "archive lock end start stop backup block cut drop increase decrease upgrade downgrade release save lift push pull "
    "mount book charge deposit follow join hold display export import download upload raise run set plan share bill "
    "show load pass fall rise pause halt schedule reserve close closure gain credit fire warm heat cool light mask "
    "merge commit flag mark pin star answer reply end kill success failure restore sleep refund bump boost trust limit "
    "delete remove quarantine heating cooling booking recording freeze pair link process leave grant ban send"
)
"""After an article these are things, not wishes: "the archive", "a backup"."""

ARTICLES = _each("the a an this that these those my our your his her its their each last next")

TOWARDS = _each("to into onto")
MOVES = _each(
    "copy move send forward mirror migrate route transfer sync convert translate replicate reassign rename push pipe "
    "promote demote map bind redirect restore change switch clone point pay give shift hand"
)
"""Without "from", a "to" after one of these has a source before it."""

INSTEAD = _each("over with instead rather")
"""`with` only of replace, swap, substitute."""

SEGMENT_ENDS = _each("from to into onto on by for at when if after before because so since while during and")


def joined(verb: str, particle: str) -> str:
    """The phrasal verb as it is written in the tables."""
    made = f"{verb}_{_SAME.get(particle, particle)}"
    return _SAME.get(made, made)
