"""The memory's own key: signs the roots of days, and tells whether it did. Read when it is needed, never made here."""

from pathlib import Path

from chassis.errors import BadSignature, CalyxError, Unavailable
from services.memory.roots import PAYLOAD_TYPE, RootKeys

# chassis.signing is loaded where it is used: it costs a tenth of a second, and a day is signed once.


def root_keys(private: Path, public: Path) -> RootKeys:
    """`private` is 0600 in the secrets, `public` its half in keys/. What either lacks is said when it is used."""

    def seal(payload: bytes) -> bytes:
        from chassis import signing

        try:
            signer = signing.load_key(private)
            known = signing.public_key(public)
        except (CalyxError, OSError, ValueError) as error:
            raise Unavailable(f"the memory's key can't be used: {error}") from error
        if signer.public_key.keyid != known.keyid:
            raise Unavailable(
                f"the memory's key is not the one whose public half is {public}; nothing is signed with it"
            )
        return signing.seal(payload, PAYLOAD_TYPE, signer)

    def unseal(envelope: bytes) -> bytes:
        from chassis import signing

        try:
            known = signing.public_key(public)
        except (OSError, ValueError) as error:
            raise BadSignature(f"there is no public key to check its signature with: {error}") from error
        return signing.unseal(envelope, PAYLOAD_TYPE, signing.Trusted(keys={known.keyid: known})).payload

    return RootKeys(seal=seal, unseal=unseal)
