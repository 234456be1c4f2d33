"""Sends alerts to ICU_NOTIFY: an Apprise URL, or a notification block of Prefect."""

from socket import gethostname

from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError

_BLOCK = "prefect:"


def is_configured() -> bool:
    """Whether ICU_NOTIFY is set."""
    return load_settings().notify is not None


def send(title: str, body: str) -> None:
    """Send a message. Raises ForecastError if ICU_NOTIFY is unset or invalid, or its service does not accept the message."""
    setting = load_settings().notify
    if setting is None:
        raise ForecastError("ICU_NOTIFY is not set, so no alert can be sent; set it to an Apprise URL (.env.example).")
    target = setting.get_secret_value()
    if target.startswith(_BLOCK):
        _send_to_block(target.removeprefix(_BLOCK), title, body)
    else:
        _send_to_url(target, title, body)


def _send_to_url(url: str, title: str, body: str) -> None:
    import apprise

    service = apprise.Apprise()
    # The URL holds a token, so no message repeats it.
    if not service.add(url):
        raise ForecastError(
            "ICU_NOTIFY is not a URL that Apprise supports; it looks like slack://..., mailto://..., json://..."
        )
    if not service.notify(body=body, title=f"{title}, {gethostname()}", notify_type=apprise.NotifyType.WARNING):
        raise ForecastError(f"The service behind ICU_NOTIFY ({url.split(':', 1)[0]}) did not accept the message.")


def _send_to_block(name: str, title: str, body: str) -> None:
    import prefect.blocks.notifications  # noqa: F401  registers the block types
    from prefect.blocks.core import Block

    try:
        Block.load(name).notify(body, subject=f"{title}, {gethostname()}")
    except Exception as error:  # a block may raise anything, and the text may hold the token
        raise ForecastError(
            f"The notification block {name!r} of ICU_NOTIFY did not accept the message ({type(error).__name__}); "
            "check that the block exists on the Prefect server, and its URL."
        ) from None
