# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""The package's exceptions: one tree, so that a caller can catch all of ours and nothing else.

Each message is one line that names the file, field or topic and what was expected.
"""


class KdPerceptionError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(KdPerceptionError):
    """A configuration file or value is missing, unknown, of the wrong type or out of range."""


class ModelError(KdPerceptionError):
    """A model file is missing, corrupt, untrusted (sha256) or contradicts its own metadata."""


class PromotionRefused(ModelError):
    """The verdict on a model is no; the message holds a line for each reason."""


class ImageError(KdPerceptionError):
    """
    An image cannot be decoded.

    :param reason: a short stable key (see `images.raw.REASONS`), used to count drops.
    :param detail: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f'{reason}: {detail}')
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.reason, self.detail)


class LabelError(KdPerceptionError):
    """A label or detection file is malformed; the message starts with `file:line:`."""


class BagError(KdPerceptionError):
    """A recording is missing, unreadable, or holds no usable topic."""


class EvaluationError(KdPerceptionError):
    """The inputs of an evaluation contradict one another."""


class TrainingError(KdPerceptionError):
    """Training or export cannot go on: bad data, diverged loss, no space."""


class RosInterfaceError(KdPerceptionError):
    """A ROS parameter, topic or environment is unusable."""


def one_line(error: object, limit: int = 500) -> str:
    """Return the text of an error (or of anything) without line breaks and of bounded length."""
    return ' '.join(str(error).split())[:limit] or type(error).__name__
