"""Growing one network into a family of larger ones, without training, as As-ViT scales its seed.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. Each step tries
a few larger networks (`nas.growth.rules`), measures As-ViT's two metrics of each, and takes the one with the smallest
sum of ranks (`nas.growth.choose`); every network on the way is a member of the family.

Growth is a function of its settings and the metrics, so only the metrics are recorded: a resumed run grows from the
start and looks up what is known already.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import NasError, UsageError
from nas.events import Progress, StageProgress, ignore
from nas.growth.choose import TIE_RULES, best_candidate
from nas.growth.limit import Limit, parse_limit
from nas.growth.rules import GrowthRule, growth_rule
from nas.growth.settings import ScaleSettings
from nas.networks.resolve import resolve_architecture
from nas.records.files import write_json
from nas.records.trial import State, Trial
from nas.result import SearchResult
from nas.runs.folder import recorded_settings
from nas.runs.front_document import FrontHeader, front_document
from nas.runs.run import Run, next_run_folder
from nas.runs.settings import (
    Given,
    check_command,
    check_unchanged,
    folder_to_resume,
    read_recorded,
    session_settings,
    verb,
)
from nas.runs.settings_file import write_settings
from search_spaces import Architecture
from search_spaces.interruption import deferred_interrupt

if TYPE_CHECKING:
    from latency_tables.predictor import Latency
    from nas.scores.asvit import AsvitScorer, AsvitScores
    from search_spaces import SearchSpace
    from search_spaces.graph import OpGraph

OBJECTIVE = "as_vit"
NTK, LENGTH = "ntk_condition", "length_distortion"


@verb(ScaleSettings)
def scale(given: Given) -> SearchResult:
    """Grow a network step by step until a limit.

    As-ViT's networks grow as published: with the limit on parameters or MACs of a network, the last member is the first
    to reach it. A limit on latency, and every limit in other spaces, is one that no member exceeds.

    Returns:
        The family as a result whose front are its members, smallest first; each can be picked and exported.

    Raises:
        UsageError: The network cannot be grown, a value is out of range, or there is nothing to resume.
        RunError: The run folder cannot be used.
        NasError: Not even the first network can be measured.
    """
    settings = _settings(given)
    if settings.network is None:
        raise UsageError("no network to grow", hint="name one, for example `asvit/seed`")
    limit = parse_limit(settings.up_to)
    rule, start = growth_rule(resolve_architecture(settings.network))
    progress = settings.progress or ignore
    device = load_device(settings.target, rule.space, progress)
    folder = settings.folder or next_run_folder(f"{rule.space.name}-family")
    document = {"command": "scale", "space": rule.space.name, **settings.recorded()}

    from nas.scores.asvit import AsvitScorer

    side = rule.space.input_shape(dict(start.settings))[-1]
    with (
        Run(folder, document, seed=settings.seed, resume=settings.resume, force=settings.force) as run,
        AsvitScorer(image_side=side, seed=settings.seed, repeats=settings.repeats, workers=settings.workers) as scorer,
        deferred_interrupt() as interrupted,
    ):
        write_settings(run.path, "scale", settings.recorded())
        growth = Growth(run, rule, device, limit, scorer, settings.ties, progress, interrupted.is_set)
        family = growth(start)
        return _result(run, rule, device, limit, family, settings, growth)


@dataclass(frozen=True)
class Device:
    """Whose latency is predicted.

    Attributes:
        target: Its name.
        latency: Predicts an op graph's.
        source: One line that says what the predictions rest on.
    """

    target: str
    latency: Callable[[OpGraph], Latency]
    source: str


def load_device(target: str, space: SearchSpace, progress: Progress) -> Device:
    """A device by name; the table of this machine is measured where it has none.

    Raises:
        UnknownNameError: There is no such target.
        NoEvidenceError: The target was measured on networks unlike those of the space, and is not built here.
    """
    from latency_tables.evidence import group_of
    from latency_tables.predictor import LatencyPredictor
    from latency_tables.targets import provenance_line
    from nas.latency.build import ensure_target
    from nas.latency.evidence import require_evidence

    table = ensure_target(target, space, progress)
    predictor = LatencyPredictor(table)
    require_evidence(predictor, space)
    return Device(target, functools.partial(predictor.graph, group=group_of(space)), provenance_line(table))


@dataclass(frozen=True)
class Member:
    """A network of the family.

    Attributes:
        trial: Its size, latency and metrics.
        candidates: How many networks it was chosen from.
    """

    trial: Trial
    candidates: int


class Growth:
    """One growth in one run folder.

    Args:
        run: Open run folder.
        rule: What larger networks there are.
        device: Whose latency is predicted.
        limit: Where growth ends.
        scorer: Gives both metrics.
        ties: How ties are broken.
        progress: Receives `nas.events.StageProgress`.
        stop: Asked before each network; true ends the growth.
    """

    def __init__(
        self,
        run: Run,
        rule: GrowthRule,
        device: Device,
        limit: Limit,
        scorer: AsvitScorer,
        ties: str,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._run = run
        self._rule = rule
        self._device = device
        self._limit = limit
        self._scorer = scorer
        self._ties = ties
        self._progress = progress
        self._stop = stop
        self.trials = run.load_trials(rule.space) if run.is_resumed else []
        self._known = {trial.architecture: trial for trial in self.trials}
        self.is_interrupted = False

    def __call__(self, start: Architecture) -> list[Member]:
        """The family, smallest first, as far as the growth came.

        Raises:
            NasError: The first network is beyond the limit or cannot be measured.
        """
        if not self._fits(start):
            raise NasError(f"the network to grow is beyond `{self._limit.text}` already", hint="raise `--up-to`")
        family: list[Member] = []
        candidates = [start]
        while candidates:
            trials = list(self._measured(candidates, len(family)))
            if len(trials) < len(candidates):
                self.is_interrupted = True
                break
            done = [trial for trial in trials if trial.state is State.DONE]
            if not done and not family:
                raise NasError(f"the network to grow cannot be measured: {trials[0].reason}")
            if not done:
                break
            metrics = [np.array([trial.scores[name] for trial in done]) for name in (NTK, LENGTH)]
            best = done[best_candidate(metrics[0], metrics[1], self._ties)]
            family.append(Member(best, len(candidates)))
            candidates = [] if self._has_arrived(best.architecture) else self._next(best.architecture)
        return family

    def _next(self, architecture: Architecture) -> list[Architecture]:
        return [candidate for candidate in self._rule.candidates(architecture) if self._fits(candidate)]

    def _fits(self, architecture: Architecture) -> bool:
        if self._limit.kind == "latency":
            return self._device.latency(self._rule.space.lower(architecture)).high_ms <= self._limit.value
        return self._size(architecture) <= self._limit.value * self._rule.overshoot

    def _has_arrived(self, architecture: Architecture) -> bool:
        return self._limit.kind != "latency" and self._size(architecture) >= self._limit.value

    def _size(self, architecture: Architecture) -> int:
        size = self._rule.size(architecture)
        return size.params if self._limit.kind == "params" else size.macs

    def _measured(self, candidates: Sequence[Architecture], step: int) -> Iterator[Trial]:
        """The trials of the candidates, in order; those that are not known are measured. Ends early when stopped."""
        unknown = [candidate for candidate in candidates if candidate not in self._known]
        scores = self._scorer.score_all([self._rule.build(candidate) for candidate in unknown])
        for position, candidate in enumerate(candidates):
            if candidate not in self._known:
                if self._stop():
                    return
                self._progress(StageProgress(f"step {step}: candidates", position, len(candidates)))
                started = time.monotonic()
                self._record(self._trial(candidate, next(scores), time.monotonic() - started))
            yield self._known[candidate]

    def _trial(self, architecture: Architecture, scores: AsvitScores, seconds: float) -> Trial:
        genotype, graph = self._rule.space.encode([architecture])[0], self._rule.space.lower(architecture)
        size, is_done = self._rule.size(architecture), not scores.failure
        return Trial(
            number=len(self.trials),
            state=State.DONE if is_done else State.FAILED,
            reason=scores.failure,
            architecture=architecture,
            genotype=tuple(genotype.tolist()),
            costs={"params": graph.params, "macs": graph.macs},
            latency={self._device.target: self._device.latency(graph)},
            objectives={OBJECTIVE: scores.ratio} if is_done else {},
            scores={
                NTK: scores.ntk.value,
                LENGTH: scores.length_distortion.value,
                "rule_params": float(size.params),
                "rule_macs": float(size.macs),
            },
            seconds=seconds,
        )

    def _record(self, trial: Trial) -> None:
        self._run.append_trial(trial)
        self.trials.append(trial)
        self._known[trial.architecture] = trial


def _settings(given: Given) -> ScaleSettings:
    """The settings of the growth: the recorded ones where one is resumed."""
    folder = folder_to_resume(given)
    recorded = None if folder is None else recorded_settings(folder)
    if recorded is not None and folder is not None:
        check_command(recorded, "scale", folder)
        check_unchanged(ScaleSettings, given, recorded, folder)
        given = {
            **session_settings(ScaleSettings, given),
            **read_recorded(ScaleSettings, recorded),
        }
    settings = ScaleSettings(**given)
    if settings.ties not in TIE_RULES:
        raise UsageError(f"`ties` is {settings.ties!r}, expected one of {', '.join(TIE_RULES)}")
    if settings.repeats < 1 or settings.seed < 0:
        raise UsageError(f"found {settings.repeats} repeats and seed {settings.seed}, expected at least 1 and 0")
    return settings


def _result(
    run: Run,
    rule: GrowthRule,
    device: Device,
    limit: Limit,
    family: Sequence[Member],
    settings: ScaleSettings,
    growth: Growth,
) -> SearchResult:
    header = FrontHeader(
        run=run.path,
        space=rule.space.name,
        seed=settings.seed,
        target=device.target,
        limit_ms=limit.limit_ms,
        objective=OBJECTIVE,
        sources=[device.source],
        classes=rule.space.classes,
    )
    document = front_document(header, [member.trial for member in family], len(growth.trials))
    for entry, member in zip(document["front"], family, strict=True):
        entry["candidates"] = member.candidates
    document["up_to"] = settings.up_to
    write_json(run.path / "front.json", document)
    return SearchResult(run.path, document, growth.is_interrupted)
