"""What a process tells about itself: logs, error reports, and the masking that both pass through."""

from config.error_reports import start_sentry
from config.logs import configure_logging
from config.masking import MASK, mask

__all__ = ["MASK", "configure_logging", "mask", "start_sentry"]
