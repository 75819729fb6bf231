"""From a plan to a session: BPF through the loader, or tracefs alone where BPF cannot be had."""

from __future__ import annotations

from collections.abc import Callable

from tcptrace.errors import HungError, RefusedError, RightsError, ShortageError, TcptraceError
from tcptrace.kernel import cgroups, tracefs
from tcptrace.kernel.privileges import require_tracing
from tcptrace.model.filters import BY_NAME, BY_PLACE
from tcptrace.probes.probe import FTRACE
from tcptrace.sources.bpf.loader import Loader
from tcptrace.sources.bpf.session import BpfSession
from tcptrace.sources.live import LiveSource
from tcptrace.sources.places import Places
from tcptrace.sources.plan import Plan


def _refuse_without_cgroups(plan: Plan) -> None:
    """Raise RefusedError where filters are about cgroups, and there are none."""
    asked = [BY_NAME[name].flags[0] for name in plan.filters.values if name in BY_PLACE]
    if asked and not cgroups.has_paths():
        raise RefusedError(
            f"{', '.join(asked)}: units, containers and pods are known by their cgroups, and "
            "cgroup v2 is not mounted here from its root.\n"
            "Mount it (in a container the host's /sys/fs/cgroup), or filter by --comm, -p or -N"
        )


class Attaching:
    """A session that is being made; the loader works while the caller prepares its output."""

    def __init__(self, plan: Plan) -> None:
        """Begin. Raises RefusedError where the plan can be honoured in no way."""
        _refuse_without_cgroups(plan)
        root = tracefs.find()
        if root:
            tracefs.remove_stale(root)
        self._plan = plan
        self._loader: Loader | None = None
        self._refusal: TcptraceError | None = None
        self._places: Places | None = None
        self._missing: list[str] = []
        if plan.backend == FTRACE:
            return
        try:
            require_tracing()
            self._loader = Loader(plan)
        except TcptraceError as error:
            self._refusal = error
            return
        self._look_round()

    def _look_round(self) -> None:
        """Judge the cgroups that there are, meanwhile, where filters by place are given."""
        judged = self._plan.judged_by_place
        if judged:
            self._places = Places(self._plan.filters, judged)
            self._missing = self._places.look_round()

    def close(self) -> None:
        """End the loader if it still works."""
        if self._loader:
            self._loader.close()

    def session(self, stopped: Callable[[], bool]) -> LiveSource | None:
        """Return the session; None when `stopped` says to give up.

        Raises:
            TcptraceError: tracing as planned is not possible.

        """
        if self._plan.backend == FTRACE:
            return _by_tracefs(self._plan)
        try:
            return self._bpf_session(stopped)
        except (RefusedError, HungError, ShortageError):
            raise
        except TcptraceError as error:
            if self._plan.backend != "auto" or not self._plan.probe.trace_variants:
                raise
            return self._fall_back(error)

    def _bpf_session(self, stopped: Callable[[], bool]) -> LiveSource | None:
        if self._refusal:
            raise self._refusal
        if not self._loader:
            return None
        answer = self._loader.attached(stopped)
        if answer is None:
            return None
        session = BpfSession(self._plan, answer)
        session.notes += self._loader.output().splitlines()
        if self._places:
            session.judge_by(self._places)
            session.warning = "\n".join(self._missing)
        return session

    def _fall_back(self, reason: TcptraceError) -> LiveSource:
        """Return a session on tracefs alone; raise `reason` where that cannot be had either."""
        why, _, advice = str(reason).partition("\n")
        why = why.rstrip(".")
        try:
            session = _by_tracefs(self._plan)
        except RefusedError as error:
            if isinstance(reason, RightsError):  # without rights, ftrace cannot be had either
                raise reason from None
            also = str(error).splitlines()[0].rstrip(".")
            raise TcptraceError(f"{why}; and {also}.\n{advice}", details=reason.details) from None
        except TcptraceError as error:
            details = filter(None, (reason.details, error.details or f"ftrace refused: {error}"))
            raise type(reason)(str(reason), details="\n".join(details)) from None
        session.notes = [*reason.details.splitlines(), *session.notes]
        session.warning = f"{why}; falling back to ftrace, without cgroups and mount namespaces"
        return session


def _by_tracefs(plan: Plan) -> LiveSource:
    from tcptrace.sources.tracefs.session import FtraceSession  # noqa: PLC0415 - seldom needed

    return FtraceSession(plan)
