from django.db import models


class Ticket(models.Model):
    """What somebody needs help with. A worker acknowledges it; one that stays open too long is closed."""

    subject = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    opened_at = models.DateTimeField(auto_now_add=True)
    acknowledged_at = models.DateTimeField(null=True, editable=False)
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-opened_at", "-pk")

    def __str__(self) -> str:
        return self.subject
