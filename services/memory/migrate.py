"""Brings a store to the schema of this version."""

import json
import sqlite3
from typing import Any

from chassis.canonical import digest, sha256_hex
from services.memory.queries import migrations

APPLICATION_ID = 0x43414C58
"""Marks the file as ours ("CALX"), so that nothing else is ever migrated by mistake."""


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Run what comes after `version`, in one transaction; foreign keys must be off. Rolls back if anything fails."""
    steps = migrations()
    pending = "\n".join(script for number, script in steps if number > version)
    if not pending:
        return
    connection.create_function("migrated_digest", 18, _migrated_digest, deterministic=True)
    connection.create_function("vector_digest", 4, vector_digest, deterministic=True)
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{pending}\nPRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {len(steps)};\nCOMMIT;"
        )
    except BaseException:
        if connection.in_transaction:
            connection.rollback()
        raise


def vector_digest(text: str, model_sha256: str, dimension: int, vector: bytes) -> str:
    """sha256 over a row of `vector` and the objective that it belongs to."""
    return digest(
        {
            "objective": text,
            "model_sha256": model_sha256,
            "dimension": dimension,
            "vector_sha256": sha256_hex(vector),
        }
    )


def _migrated_digest(*row: Any) -> str:
    """An event's digest from schema 2 on, if the one it had (which covered its vector) still matched."""
    names = (
        *("id", "station_id", "namespace", "origin", "kind", "objective", "domain", "procedure", "task_id"),
        *("pulse_id", "occurred_at", "recorded_at"),
    )
    context, predicted, vector, model_sha256, dimension, was = row[len(names) :]
    facts = {**dict(zip(names, row, strict=False)), "context": json.loads(context), "predicted": predicted}
    sealed = {
        **facts,
        "vector_sha256": None if vector is None else sha256_hex(vector),
        "model_sha256": model_sha256,
        "dimension": dimension,
    }
    return digest(facts) if digest(sealed) == was else f"damaged before schema 2: {was}"
