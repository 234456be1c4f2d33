"""Adds the options of a training to a command: one for each field of the configs."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.options import Setting, configure, read_options, settings

# Longer defaults are left out of the help.
_SHOWN = 40

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="<file>",
        help="YAML file of options, by their names; the command line wins.",
        show_default=False,
    ),
]


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each of `settings()`; it gets those that were given, and those of the file `config`,
    as the dictionary `options`. What they do not allow is wrong usage."""

    @wraps(command)
    def run(*, config: Path | None, **given: Any) -> None:
        chosen = {name: given.pop(_parameter(name)) for name in settings()}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        try:
            options = {**(read_options(config) if config else {}), **chosen}
            configure(options)
        except ContractError as error:
            raise typer.BadParameter(str(error)) from None
        command(**given, options=options)

    own = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    more = [_option("config", Config), *(_option(_parameter(name), _typed(one)) for name, one in settings().items())]
    # Typer reads both.
    run.__signature__ = inspect.Signature([p.replace(kind=p.KEYWORD_ONLY) for p in own] + more)
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}
    del run.__wrapped__
    return run


def _parameter(name: str) -> str:
    return name.replace("-", "_")


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _typed(setting: Setting) -> Any:
    flag, default = f"--{setting.name}", _shown_default(setting)
    if setting.is_flag:
        flag += f"/--no-{setting.name}"
    option = typer.Option(
        flag,
        help=setting.help + (f" One of {setting.allowed}." if setting.allowed else ""),
        rich_help_panel=setting.topic,
        metavar=None if setting.is_flag else _metavar(setting),
        show_default=default,
    )
    return Annotated[bool | None if setting.is_flag else str | None, option]


def _shown_default(setting: Setting) -> str | bool:
    if setting.is_flag:
        return setting.name if setting.default else f"no-{setting.name}"
    shown = ",".join(map(_short, setting.default)) if setting.is_list else _short(setting.default)
    return shown if 0 < len(shown) <= _SHOWN else False


def _metavar(setting: Setting) -> str:
    if setting.allowed:
        return "<name,...>" if setting.is_list else "<name>"
    return "<value,...>" if setting.is_list else "<value>"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
