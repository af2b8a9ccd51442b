"""A search that goes on, as its folder shows it."""

from __future__ import annotations

from pathlib import Path

from nas.errors import RunError
from nas.objectives.objective import front_of, make_objectives
from nas.records.trial import State
from nas.records.trial_record import TRIALS, read_trials
from nas.result import SearchResult, load_result
from nas.runs.folder import RunFolder
from nas.runs.front import FRONT_FILE
from nas.runs.front_document import FrontHeader, front_document, with_many
from nas.runs.settings import read_recorded
from nas.searching.settings import SearchSettings
from search_spaces import get_space


def search_so_far(run: Path) -> SearchResult | None:
    """What a search has found so far; None where no network has been judged yet.

    Args:
        run: Run folder of a search, whether it goes on, was stopped or has ended.

    Raises:
        RunError: There is no search, or its files cannot be read.
    """
    folder = RunFolder(run)
    if folder.command != "search":
        found = "no run" if folder.command is None else f"a run of `nas {folder.command}`"
        raise RunError(f"`{run}`: found {found}, expected a run folder of `nas search`")
    if (run / FRONT_FILE).exists():
        return load_result(run)
    if not (run / TRIALS).exists():
        return None
    settings = SearchSettings(**read_recorded(SearchSettings, folder.settings))
    trials = [
        trial
        for trial in read_trials(run / TRIALS, get_space(settings.space, classes=folder.classes))
        if trial.state is State.DONE
    ]
    if not trials:
        return None
    evaluated = next(iter(trials[0].objectives), None)
    objectives = make_objectives(settings.objective_names, evaluated)
    header = FrontHeader(
        run, settings.space, settings.seed, settings.target, settings.limit_ms, objectives[0].name, sources=[]
    )
    document = front_document(header, front_of(trials, objectives), len(trials))
    if settings.objectives is not None:
        document = with_many(document, objectives, settings.bounds, trials)
    return SearchResult(run, document, is_interrupted=True)
