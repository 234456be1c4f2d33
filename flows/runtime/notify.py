"""The one way to people: a message to ICU_NOTIFY, an Apprise URL or a notification block of Prefect."""

from socket import gethostname

from flows.runtime.settings import load_settings
from rnn_core.contracts.errors import ForecastError

_BLOCK = "prefect:"


def is_configured() -> bool:
    """Whether there is anybody to tell."""
    return load_settings().notify is not None


def send(title: str, body: str) -> None:
    """Send a message. Raises ForecastError where ICU_NOTIFY is not set, not right, or does not take it."""
    setting = load_settings().notify
    if setting is None:
        raise ForecastError("ICU_NOTIFY is not set, so nobody can be told; give it an Apprise URL (.env.example).")
    target = setting.get_secret_value()
    if target.startswith(_BLOCK):
        _send_to_block(target.removeprefix(_BLOCK), title, body)
    else:
        _send_to_url(target, title, body)


def _send_to_url(url: str, title: str, body: str) -> None:
    import apprise

    service = apprise.Apprise()
    # The address holds a token: no sentence repeats it.
    if not service.add(url):
        raise ForecastError(
            "ICU_NOTIFY is no address that Apprise knows; it looks like slack://..., mailto://..., json://..."
        )
    if not service.notify(body=body, title=f"{title}, {gethostname()}", notify_type=apprise.NotifyType.WARNING):
        raise ForecastError(f"The service behind ICU_NOTIFY ({url.split(':', 1)[0]}) did not take the message.")


def _send_to_block(name: str, title: str, body: str) -> None:
    import prefect.blocks.notifications  # noqa: F401  registers the kinds of block
    from prefect.blocks.core import Block

    try:
        Block.load(name).notify(body, subject=f"{title}, {gethostname()}")
    except Exception as error:  # a block may raise anything, and its text may hold the token
        raise ForecastError(
            f"The notification block {name!r} of ICU_NOTIFY did not take the message ({type(error).__name__}); check that "
            "it exists on the Prefect server and its address."
        ) from None
