"""What all tests share: a helper's failed assertion says what it compared, as a test's does."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "tests.kernel.harness", "tests.kernel.resolvers", "tests.unit.records", "tests.vm.peers"
)
