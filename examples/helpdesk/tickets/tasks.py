import logging

from celery import shared_task
from django.utils import timezone

from tickets.models import Ticket

logger = logging.getLogger(__name__)


@shared_task
def acknowledge(ticket: int) -> None:
    """Tell whoever opened a ticket that it has arrived. A task may come twice: what was done once is left alone."""
    if Ticket.objects.filter(pk=ticket, acknowledged_at=None).update(acknowledged_at=timezone.now()):
        logger.info("acknowledged ticket %d", ticket)
