# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""What an SROS2 policy lets each node do."""

from xml.etree import ElementTree


def names(text):
    """Return {node: {rule: [names]}}, names resolved as sros2 does: against ns, and `~` against the node."""
    found = {}
    for profile in ElementTree.fromstring(text).iter('profile'):
        node, prefix = profile.get('node'), profile.get('ns').rstrip('/') + '/'
        rules = found.setdefault(node, {})
        for group in profile:
            for rule in group.attrib:
                rules.setdefault(rule, []).extend(
                    item.text if item.text.startswith('/') else
                    prefix + node + item.text[1:] if item.text.startswith('~') else prefix + item.text
                    for item in group)
    return found
