"""One command on several ranks: joining the group, leaving it when something fails, and the process' end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, NoReturn

from curvtool.cli import interruption
from curvtool.errors import CurvtoolError, RankLost

if TYPE_CHECKING:
    from curvtool.cluster.solo import Solo

_SECONDS_TO_HEAR = 1.0  # that the rank which keeps the store stays, for the others to learn why it goes


@contextmanager
def joined(timeout: float) -> Iterator[Solo]:
    """The group of ranks that this process was started in, or itself alone.

    What every rank raises alike is told by one of them.

    Args:
        timeout: seconds that a rank waits for the others.
    """
    from curvtool.cluster.place import place_of

    several = place_of() is not None
    if several:  # a lost rank is told in our words, not by a stack trace of the library's
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from curvtool.cluster.group import join

    waits = interruption.at_once() if several else nullcontext()
    with waits:  # what waits in the library for the others hears no signal
        cluster = join(timeout)
    if cluster.size == 1:
        yield cluster
        return
    interruption.be_patient()
    try:
        yield cluster
    except SystemExit:
        cluster.close()
        raise
    except RankLost:
        raise
    except BaseException as error:
        words = error.message if isinstance(error, CurvtoolError) else f"{type(error).__name__}: {error}"
        is_news = cluster.tell_failure(words)
        if cluster.is_first:
            time.sleep(_SECONDS_TO_HEAR)
        if isinstance(error, CurvtoolError) and not is_news:
            raise SystemExit(error.exit_status) from error
        raise
    else:
        cluster.close()
    finally:
        cluster.stop_watching()


def end_process(status: int) -> NoReturn:
    """Ends a rank with its status, without taking Python down first.

    A thread of torch's that let go of a collective's tensors while Python ends would abort the process, and a rank
    that did all its work would end with the status of a crash.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
