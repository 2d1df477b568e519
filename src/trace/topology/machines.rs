//! Which MACs are one machine's: those of the points that its name is given to, and those between which a packet was handed on inside.

use crate::net::MacAddr;
use hashbrown::HashMap;

/// Sets of MACs that belong together, as parents; a machine that the user named takes part under a number.
#[derive(Default)]
pub(in crate::trace) struct Machines {
    parents: HashMap<Node, Node>,
    names: HashMap<Node, String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Node {
    Mac(MacAddr),
    Named(u32),
}

impl Machines {
    pub(in crate::trace) fn same(&self, a: MacAddr, b: MacAddr) -> bool {
        a == b || (self.parents.contains_key(&Node::Mac(a)) && self.find(Node::Mac(a)) == self.find(Node::Mac(b)))
    }

    /// The name that the user gave to the machine that a MAC belongs to.
    pub(in crate::trace) fn given_name(&self, mac: MacAddr) -> Option<&str> {
        self.names.get(&self.find(Node::Mac(mac))).map(String::as_str)
    }

    /// A MAC that stands for the whole machine.
    pub(in crate::trace) fn representative(&self, mac: MacAddr) -> MacAddr {
        let root = self.find(Node::Mac(mac));
        let members = self.parents.keys().filter_map(|node| match node {
            Node::Mac(mac) if self.find(*node) == root => Some(*mac),
            _ => None,
        });
        members.min().unwrap_or(mac)
    }

    /// A MAC belongs to the machine that the user named; `number` is the same for each MAC of that name.
    pub(super) fn name(&mut self, mac: MacAddr, number: u32, name: &str) {
        self.names.entry(self.find(Node::Named(number))).or_insert_with(|| name.to_string());
        self.join(Node::Named(number), Node::Mac(mac));
    }

    /// Two MACs belong to one machine. True when that was new.
    pub(super) fn unite(&mut self, a: MacAddr, b: MacAddr) -> bool {
        self.join(Node::Mac(a), Node::Mac(b))
    }

    fn find(&self, mut node: Node) -> Node {
        while let Some(&parent) = self.parents.get(&node) {
            if parent == node {
                break;
            }
            node = parent;
        }
        node
    }

    /// Puts two nodes into one host, unless the user named them as two. True when they were not in one yet.
    fn join(&mut self, a: Node, b: Node) -> bool {
        let (a, b) = (self.find(a), self.find(b));
        if a == b {
            return false;
        }
        let (name_a, name_b) = (self.names.get(&a).cloned(), self.names.get(&b).cloned());
        if name_a.is_some() && name_b.is_some() && name_a != name_b {
            return false;
        }
        let (parent, child) = (a.min(b), a.max(b));
        self.parents.insert(parent, parent);
        self.parents.insert(child, parent);
        if let Some(name) = name_a.or(name_b) {
            self.names.insert(parent, name);
        }
        true
    }
}
