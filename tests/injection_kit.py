"""The injection kit under the name that scripts outside the tests import, with ``tests`` on the path and the pack loaded."""

from blockwork.tests.support.injection_kit import *  # noqa: F403
