"""Orders are confirmed to their users."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, and take what was ordered before as confirmed: nobody wants mail about it now."""
    op.add_column("orders", sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE orders SET confirmed_at = created_at")
    op.create_index("orders_unconfirmed_idx", "orders", ["id"], postgresql_where=sa.text("confirmed_at IS NULL"))
    op.create_table(
        "confirmations",
        sa.Column("order_id", sa.BigInteger, nullable=False),
        sa.Column("sent_by", sa.Text, nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name="confirmations_pkey"),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name="confirmations_order_id_fkey", ondelete="CASCADE"),
    )


def downgrade() -> None:
    """Forget who was told."""
    op.drop_table("confirmations")
    op.drop_index("orders_unconfirmed_idx", "orders")
    op.drop_column("orders", "confirmed_at")
