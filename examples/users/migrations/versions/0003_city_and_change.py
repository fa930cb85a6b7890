"""Where users live, and when they last changed."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; who was there before changed last when they came."""
    op.add_column("users", sa.Column("city", sa.Text, server_default="", nullable=False))
    op.add_column(
        "users",
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.execute("UPDATE users SET updated_at = created_at")


def downgrade() -> None:
    """Drop the columns."""
    op.drop_column("users", "updated_at")
    op.drop_column("users", "city")
