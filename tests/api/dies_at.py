"""``ostiary serve`` that is killed (-9) where a named method of ``Jobs`` gets a build's job.

DIES_AT=record python -m tests.api.dies_at serve
"""

from __future__ import annotations

import os
import signal
from typing import Any

from app.cli import main
from app.retrieval.builds import KIND
from app.store.jobs import Jobs

method = os.environ["DIES_AT"]
plain = getattr(Jobs, method)


async def killed(self: Jobs, *given: Any) -> Any:
    if any(getattr(each, "kind", None) == KIND for each in given):
        os.kill(os.getpid(), signal.SIGKILL)
    return await plain(self, *given)


setattr(Jobs, method, killed)

if __name__ == "__main__":
    main()
