import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.memory.polarity import opposed, polarity

OPPOSITE = [
    ("enable the firewall", "disable the firewall"),
    ("start the web server", "stop the web server"),
    ("start the web server", "stopping the web server"),
    ("add a user to the group", "remove a user from the group"),
    ("open the port", "close the port"),
    ("increase the log level", "decrease the log level"),
    ("increase the cache size", "shrink the cache"),
    ("allow traffic from outside", "deny traffic from outside"),
    ("turn the lights on", "turn the lights off"),
    ("turn on the alarm", "turn the alarm off"),
    ("scale the workers up", "scale the workers down"),
    ("rotate the logs", "do not rotate the logs"),
    ("rotate the logs", "never rotate the logs"),
    ("delete the files with a backup", "delete the files without a backup"),
    ("rotate the logs", "don't rotate the logs"),
    ("mount the disk", "unmount the disk"),
    ("install the package", "uninstall the package"),
    ("compress the archive", "decompress the archive"),
    ("mark the task as blocked by review", "mark the task as unblocked by review"),
    ("the most expensive product", "the least expensive product"),
    ("files older than a week", "files newer than a week"),
    ("copy the files from the laptop to the server", "copy the files from the server to the laptop"),
    ("replace nginx with caddy", "replace caddy with nginx"),
    ("set the limit from 5 to 10", "set the limit from 10 to 5"),
    ("at least 3 replicas must run", "at most 3 replicas must run"),
    ("show tracked files", "show untracked files"),
    ("no more than 4 threads", "no less than 4 threads"),
]

SAME = [
    ("rotate the logs", "rotate and compress the log files"),
    ("start the web server", "launch the web server"),
    ("enable the firewall", "activate the firewall"),
    ("turn on the lights", "switch the lights on"),
    ("check the disk on the server", "check the disk of the server"),
    ("start or stop the service", "start the service"),
    ("delete old reports", "remove old reports"),
    ("summarise the metrics", "roll the metrics up"),
    ("it is not without reason", "it is with reason"),
    ("start the job that stops idle containers", "launch the job which halts idle containers"),
    ("do not disable the firewall", "leave the firewall enabled"),
    ("which hosts are not reachable", "list the unreachable hosts"),
    ("copy the files from the laptop to the server", "copy the files to the server from the laptop"),
    ('count the reviews that mention "not useful"', 'count the reviews that mention "great"'),
]


@pytest.mark.parametrize(("one", "other"), OPPOSITE)
def test_opposites_are_told_apart_in_both_directions(one: str, other: str) -> None:
    assert opposed(polarity(one), polarity(other))
    assert opposed(polarity(other), polarity(one))


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_wish_in_other_words_is_not_an_opposite(one: str, other: str) -> None:
    assert opposed(polarity(one), polarity(other)) is None


@given(st.text(max_size=200))
def test_no_text_is_opposed_to_itself(text: str) -> None:
    assert opposed(polarity(text), polarity(text)) is None


@given(st.text(max_size=80), st.text(max_size=80))
def test_being_opposed_does_not_depend_on_who_asks(one: str, other: str) -> None:
    assert (opposed(polarity(one), polarity(other)) is None) == (opposed(polarity(other), polarity(one)) is None)
