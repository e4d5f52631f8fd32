"""Code from outside the packages, named by text: ``my_code.py:MyEncoder``, ``package.module:MyEncoder`` or the name
of an entry point. A name becomes an object here and nowhere else, and only where the user allowed its code to run.
"""

from etrm.extensions.extension_point import ExtensionPoint as ExtensionPoint
from etrm.extensions.extension_point import describe as describe
from etrm.extensions.loading import explained as explained
from etrm.extensions.loading import in_users_code as in_users_code
from etrm.extensions.names import CodeName as CodeName
from etrm.extensions.names import absolute as absolute
from etrm.extensions.names import parse as parse
from etrm.extensions.names import registered as registered
from etrm.extensions.permission import allow as allow
from etrm.extensions.permission import read_source as read_source
from etrm.extensions.source_hash import outside_digests as outside_digests
from etrm.extensions.source_hash import source_digest as source_digest
