"""The errors that a person is meant to read: each says what was expected, what was found and what to do."""


class ForecastError(Exception):
    """Base of all errors whose text is safe to log: it never carries a value of a patient."""


class ContractError(ForecastError):
    """Data or a configuration breaks a stated contract (columns, shapes, units, unknown names)."""


class SourceError(ForecastError):
    """The source database cannot be reached or lacks a table or column that its adapter selects."""


class QualityError(ForecastError):
    """A critical expectation failed; nothing of the batch was taken over."""


class ArtifactError(ForecastError):
    """A model artifact is missing, incomplete, or was made for other concepts than it is asked to score."""


class DataTooSmallError(ForecastError):
    """There are too few finished stays to fit or to judge what was asked for."""
