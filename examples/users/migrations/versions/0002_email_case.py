"""Addresses that differ in case only are the same address."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index ignore case, and bound what is kept."""
    op.drop_index("users_email_key", "users")
    op.create_index("users_email_key", "users", [sa.text("lower(email)")], unique=True)
    op.create_check_constraint(op.f("users_email_length_check"), "users", "length(email) <= 254")
    op.create_check_constraint(op.f("users_name_length_check"), "users", "length(name) BETWEEN 1 AND 200")


def downgrade() -> None:
    """Make case count again."""
    op.drop_constraint(op.f("users_name_length_check"), "users")
    op.drop_constraint(op.f("users_email_length_check"), "users")
    op.drop_index("users_email_key", "users")
    op.create_index("users_email_key", "users", ["email"], unique=True)
