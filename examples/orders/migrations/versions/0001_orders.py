"""Orders and their items."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "orders",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("total_cents", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="orders_pkey"),
        sa.CheckConstraint("total_cents >= 0", name=op.f("orders_total_check")),
    )
    op.create_index("orders_user_id_id_idx", "orders", ["user_id", "id"])
    op.create_table(
        "order_items",
        sa.Column("order_id", sa.BigInteger, nullable=False),
        sa.Column("line", sa.SmallInteger, nullable=False),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("price_cents", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("order_id", "line", name="order_items_pkey"),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"], name="order_items_order_id_fkey", ondelete="CASCADE"),
        sa.CheckConstraint("quantity > 0", name=op.f("order_items_quantity_check")),
        sa.CheckConstraint("price_cents >= 0", name=op.f("order_items_price_check")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("order_items")
    op.drop_table("orders")
