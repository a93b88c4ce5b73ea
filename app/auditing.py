"""What stands around the audit log: opened and closed with the other services."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from app.monitoring.checkpoints import Checkpoints
from app.monitoring.export import AuditExport
from app.monitoring.removal import Removal
from app.monitoring.retention import Policy, Retention
from app.monitoring.signing import AuditKeys, make_key_file
from app.periodic import forever
from app.settings import Settings
from app.store.db import Database
from app.store.jobs import Jobs

LOOK_FOR_CHECKPOINTS_S = 5.0
LOOK_FOR_RETENTION_S = 3600.0


@dataclass(slots=True)
class Auditing:
    """The services beside the log itself."""

    keys: AuditKeys
    checkpoints: Checkpoints
    export: AuditExport
    removal: Removal
    retention: Retention

    def begin(self, stack: AsyncExitStack) -> None:
        """Look for what is due from now on; the jobs have been started."""
        for work, every_s in (
            (self.checkpoints.look, LOOK_FOR_CHECKPOINTS_S),
            (self.retention.look, LOOK_FOR_RETENTION_S),
        ):
            task = asyncio.create_task(forever(work, every_s, at_once=True))
            stack.callback(task.cancel)


def open_auditing(settings: Settings, db: Database, jobs: Jobs) -> Auditing:
    """Read or make the keys; blocking.

    Raises:
        BadKeyFile: the settings name a file that cannot be used.
    """
    if settings.audit_signing_key is None:
        make_key_file(settings.audit_key_file)
    keys = AuditKeys(db, settings.audit_key_file, settings.audit_trusted_keys)
    keys.refresh()
    removal = Removal(db, keys)
    return Auditing(
        keys,
        Checkpoints(
            db,
            keys,
            settings.checkpoint_file,
            settings.audit_checkpoint_records,
            settings.audit_checkpoint_minutes * 60,
        ),
        AuditExport(db, keys),
        removal,
        Retention(
            db,
            jobs,
            removal,
            Policy(settings.audit_retention_days, settings.audit_bodies_retention_days),
        ),
    )
