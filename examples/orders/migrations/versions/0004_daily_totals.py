"""What each day brought."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and the index that finds a day."""
    op.create_table(
        "daily_totals",
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("orders", sa.BigInteger, nullable=False),
        sa.Column("items", sa.BigInteger, nullable=False),
        sa.Column("revenue_cents", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("day", name="daily_totals_pkey"),
    )
    op.create_index("orders_created_at_idx", "orders", ["created_at"], postgresql_using="brin")


def downgrade() -> None:
    """Drop both."""
    op.drop_index("orders_created_at_idx", "orders")
    op.drop_table("daily_totals")
