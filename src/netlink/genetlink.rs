//! Families by name: IPVS, ethtool.

use super::socket::NlmFlags;
use super::{Attributes, Attrs, Family, NetlinkError, Reply, Socket};

/// The family that knows the others.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const ENOENT: i32 = 2;

/// A family of generic netlink, in the network namespace of the thread that opened it.
pub struct Generic {
    socket: Socket,
    id: u16,
    version: u8,
}

impl Generic {
    /// Looks it up; `None` when the kernel does not have it.
    ///
    /// # Errors
    /// When that cannot be asked.
    pub fn open(name: &str, version: u8) -> Result<Option<Self>, NetlinkError> {
        let mut socket = Socket::open(Family::Generic)?;
        let question = Attributes::new().text(FAMILY_NAME, name).behind(&[GET_FAMILY, 1, 0, 0]);
        match socket.ask(CONTROL, &question) {
            Ok(found) => {
                let id = Attrs::after(&found.body, 4)
                    .u16(FAMILY_ID)
                    .ok_or_else(|| NetlinkError::other(format!("the family {name} has no number")))?;
                Ok(Some(Generic { socket, id, version }))
            }
            Err(e) if e.is(ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Asks for everything of a kind.
    ///
    /// # Errors
    /// When the kernel refuses, or what it lists does not hold still.
    pub fn dump(&mut self, command: u8, attributes: &Attributes) -> Result<Vec<Reply>, NetlinkError> {
        self.socket.dump(self.id, &attributes.behind(&[command, self.version, 0, 0]))
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// When the kernel refuses, or has no answer.
    pub fn ask(&mut self, command: u8, attributes: &Attributes) -> Result<Reply, NetlinkError> {
        self.socket.ask(self.id, &attributes.behind(&[command, self.version, 0, 0]))
    }

    /// Has something done: waits until the kernel has done it.
    ///
    /// # Errors
    /// What the kernel refused, with its words.
    pub fn tell(&mut self, command: u8, attributes: &Attributes) -> Result<(), NetlinkError> {
        self.socket.change(self.id, NlmFlags::CHANGE, &attributes.behind(&[command, self.version, 0, 0]))
    }
}
