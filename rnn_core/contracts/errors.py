"""Errors for people: each says what was expected, what was found and what to do."""


class ForecastError(Exception):
    """Base of all errors whose text is safe to log: it never contains a patient's value."""


class ContractError(ForecastError):
    """Data or a configuration breaks a stated contract (columns, shapes, units, unknown names)."""


class SourceError(ForecastError):
    """The source database cannot be reached or lacks a table or column that its adapter selects."""


class QualityError(ForecastError):
    """A critical expectation failed; nothing of the batch was accepted."""


class ArtifactError(ForecastError):
    """A model artifact is missing, incomplete, or was made for other concepts."""


class DataTooSmallError(ForecastError):
    """There are too few finished stays for the requested fit or evaluation."""
