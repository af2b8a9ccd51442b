"""Whether a teacher knows enough to be heeded: one that is worse than chance, or than its student, is not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nas.evaluation.accuracy import guessed, judge
from nas.evaluation.evaluators import BATCH_SIZE
from nas.events import Notice, Progress

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.training.distributed import ProcessGroup
    from supernets.training.settings import TrainingSettings
    from supernets.training.targets import Teacher

MOST_JUDGED = 2_000
"""Images of the search part that a named teacher is judged on at most."""


def is_heeded(teacher: float, student: float | None, images: ImageData, progress: Progress) -> bool:
    """Whether a teacher of this accuracy is to teach; where it is not, that is said.

    Args:
        teacher: Accuracy of the teacher on the search part, in [0, 1].
        student: Accuracy of its student before it learns; None where it begins with random weights.
        images: Images that both were judged on.
        progress: Told of a teacher that is not heeded.
    """
    chance = guessed(images, "search") if images.has_several_labels else 1 / images.classes
    if teacher <= chance:
        reason = f"no more than chance ({chance:.1%}): does it know other classes, or these in another order?"
    elif student is not None and teacher < student - math.sqrt(student * (1 - student) / images.splits["search"]):
        reason = f"its student on {student:.1%} before it learns anything"
    else:
        return True
    said = f"is right on {teacher:.1%} of the search part"
    if images.has_several_labels:
        said = f"has a mean average precision of {teacher:.1%}"
    progress(Notice(f"the teacher {said}, {reason}; it does not teach"))
    return False


def named_teacher(
    training: TrainingSettings, images: ImageData, group: ProcessGroup, progress: Progress
) -> tuple[TrainingSettings, Teacher | None]:
    """The teachers that settings of a training name, where they are heeded; else the settings without them.

    Args:
        training: Settings of the training.
        images: Images that are learned from.
        group: Processes that train together; the main one judges.
        progress: Told of teachers that are not heeded.

    Raises:
        TrainingError: A teacher cannot be had, or knows other classes.
    """
    from supernets.training.targets import make_teacher

    teacher = make_teacher(training, images, group.device)
    if teacher is None:
        return training, None
    heeded = None
    if group.is_main_process:
        batches = images.batches("search", BATCH_SIZE, MOST_JUDGED)
        found = judge(lambda x_BCHW: teacher(x_BCHW.to(group.device)), batches, images.class_names)
        heeded = is_heeded(found.accuracy, None, images, progress)
    return (training, teacher) if group.broadcast(heeded) else (without_teachers(training), None)


def without_teachers(training: TrainingSettings) -> TrainingSettings:
    """The settings of a training whose teachers are not heeded."""
    return replace(training, teachers=(), teacher_weights=())
