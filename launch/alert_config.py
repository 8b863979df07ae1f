"""Where alerts go: a part of an experiment."""

from dataclasses import dataclass

from tutelage.pipeline.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertConfig:
    """Where events go: a command, which reads one from its standard input, or a webhook, to which one is posted.

    It may be changed in a workdir at any time.

    >>> AlertConfig(command=("mail", "-s", "tutelage", "oncall@example.com")).webhook
    ''
    """

    command: tuple[str, ...] = ()
    """A program and its arguments. No shell reads them."""
    webhook: str = ""
    """An http or https URL. It is never printed, because it often holds a token."""

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.webhook):
            raise UserError("alerts: expected a command or a webhook, and not both; give one of them")
        if self.webhook and not self.webhook.startswith(("http://", "https://")):
            raise UserError("alerts: webhook is no http or https URL; give one, as in https://host/hook")
