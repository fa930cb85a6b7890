from datetime import timedelta

from django.core.management.base import BaseCommand
from django.utils import timezone

from tickets.models import Ticket


class Command(BaseCommand):
    help = "Closes tickets that have been open for too long."

    def add_arguments(self, parser):
        parser.add_argument("--days", type=int, default=30)

    def handle(self, *args, days: int, **options):
        now = timezone.now()
        closed = Ticket.objects.filter(closed_at=None, opened_at__lt=now - timedelta(days=days)).update(closed_at=now)
        self.stdout.write(f"closed {closed} tickets")
