from django.contrib import admin
from django.db import transaction

from tickets.models import Ticket
from tickets.tasks import acknowledge


@admin.register(Ticket)
class TicketAdmin(admin.ModelAdmin):
    list_display = ("subject", "opened_at", "acknowledged_at", "closed_at")
    readonly_fields = ("opened_at", "acknowledged_at")

    def save_model(self, request, obj, form, change):
        super().save_model(request, obj, form, change)
        if not change:
            # Once the ticket is there for others to see; a queue that is away is logged and does not undo it.
            transaction.on_commit(lambda: acknowledge.delay(obj.pk), robust=True)
