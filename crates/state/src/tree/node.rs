//! One node of the tree, and its bytes.
//!
//! | kind     | bytes                                                                             |
//! |----------|-----------------------------------------------------------------------------------|
//! | leaf     | 0, number of entries, then by rising key: key minus previous, value minus previous |
//! | inner    | 1, which children exist (bits), entries below, child names                         |
//! | snapshot | 2, name of the members' tree, name of the other state's tree                       |
//!
//! Numbers are variable-length; differences are zigzag-coded. The name is the first 16 bytes of the
//! BLAKE3 hash of the bytes.

use std::{fmt, sync::Arc};

use super::{FANOUT, LEAF_MAX};

/// The name of a node: a hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The name of the empty map, which is never stored.
    pub const EMPTY: Self = Self([0; 16]);

    /// From its bytes as stored; nothing if they are not 16.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes, to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Its bytes, to store.
    #[must_use]
    pub fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn of(bytes: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(id)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Stored bytes that are not a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a node of a state tree")]
pub struct BadNode;

/// An immutable node, kept as its bytes; cheap to clone, good to cache for ever.
#[derive(Clone, PartialEq, Eq)]
pub struct Node(Arc<[u8]>);

const LEAF: u8 = 0;
const INNER: u8 = 1;
const SNAPSHOT: u8 = 2;

/// What a node holds, read from its bytes.
pub(super) enum Content {
    Leaf(Vec<(i64, i64)>),
    Inner(Inner),
    Snapshot(NodeId, NodeId),
}

/// An inner node: a child for each slot that has entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) children: [NodeId; FANOUT],
    /// Entries below.
    pub(super) total: usize,
}

/// The nodes a node refers to, for marking what is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Children(pub Vec<NodeId>);

impl Node {
    pub(super) fn empty() -> Self {
        Self(Arc::from([LEAF, 0].as_slice()))
    }

    /// A node from its stored bytes.
    ///
    /// # Errors
    /// When they are not a node; the store is damaged.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Result<Self, BadNode> {
        let node = Self(bytes.into());
        node.try_content().ok_or(BadNode)?;
        Ok(node)
    }

    /// The bytes to store.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name to store it under.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId::of(&self.0)
    }

    /// The nodes it refers to.
    #[must_use]
    pub fn children(&self) -> Children {
        let named = match self.try_content() {
            Some(Content::Inner(inner)) => inner.children.to_vec(),
            Some(Content::Snapshot(members, other)) => vec![members, other],
            _ => Vec::new(),
        };
        Children(named.into_iter().filter(|id| *id != NodeId::EMPTY).collect())
    }

    /// What it holds. Bytes were checked when the node was made.
    pub(super) fn content(&self) -> Content {
        self.try_content().unwrap_or(Content::Leaf(Vec::new()))
    }

    fn try_content(&self) -> Option<Content> {
        let mut reader = Reader { bytes: &self.0 };
        let content = match reader.byte()? {
            LEAF => {
                let count = usize::try_from(reader.varint()?).ok()?;
                if count > LEAF_MAX {
                    return None;
                }
                let mut entries = Vec::with_capacity(count);
                let (mut key, mut value) = (0_i64, 0_i64);
                for index in 0..count {
                    let step = reader.zigzag()?;
                    let next = key.wrapping_add(step);
                    if index > 0 && next <= key {
                        return None;
                    }
                    key = next;
                    value = value.wrapping_add(reader.zigzag()?);
                    entries.push((key, value));
                }
                Content::Leaf(entries)
            }
            INNER => {
                let exists = reader.byte()?;
                let total = usize::try_from(reader.varint()?).ok()?;
                let mut children = [NodeId::EMPTY; FANOUT];
                for (index, child) in children.iter_mut().enumerate() {
                    if exists & (1 << index) != 0 {
                        *child = reader.id()?;
                    }
                }
                Content::Inner(Inner { children, total })
            }
            SNAPSHOT => Content::Snapshot(reader.id()?, reader.id()?),
            _ => return None,
        };
        reader.bytes.is_empty().then_some(content)
    }

    /// Look up one key of a leaf without making a list of it.
    pub(super) fn leaf_get(&self, wanted: i64) -> Option<i64> {
        let mut reader = Reader { bytes: &self.0 };
        if reader.byte()? != LEAF {
            return None;
        }
        let (mut key, mut value) = (0_i64, 0_i64);
        for _ in 0..reader.varint()? {
            key = key.wrapping_add(reader.zigzag()?);
            value = value.wrapping_add(reader.zigzag()?);
            if key >= wanted {
                return (key == wanted).then_some(value);
            }
        }
        None
    }

    /// The child of an inner node in this slot, without reading the others.
    pub(super) fn inner_child(&self, slot: usize) -> Option<NodeId> {
        let mut reader = Reader { bytes: &self.0 };
        if reader.byte()? != INNER {
            return None;
        }
        let exists = reader.byte()?;
        reader.varint()?;
        if exists & (1 << slot) == 0 {
            return Some(NodeId::EMPTY);
        }
        let before = (exists & ((1 << slot) - 1)).count_ones() as usize;
        NodeId::from_slice(reader.bytes.get(before * 16..before * 16 + 16)?)
    }

    /// A leaf. `entries` by rising key.
    pub(super) fn leaf(entries: &[(i64, i64)]) -> Self {
        let mut bytes = Vec::with_capacity(2 + entries.len() * 8);
        bytes.push(LEAF);
        put_varint(entries.len() as u64, &mut bytes);
        let (mut last_key, mut last_value) = (0_i64, 0_i64);
        for (key, value) in entries {
            put_zigzag(key.wrapping_sub(last_key), &mut bytes);
            put_zigzag(value.wrapping_sub(last_value), &mut bytes);
            (last_key, last_value) = (*key, *value);
        }
        Self(bytes.into())
    }

    pub(super) fn inner(inner: &Inner) -> Self {
        let mut bytes = Vec::with_capacity(16 + FANOUT * 16);
        let exists = |(index, child): (usize, &NodeId)| u8::from(*child != NodeId::EMPTY) << index;
        bytes.push(INNER);
        bytes.push(inner.children.iter().enumerate().map(exists).sum());
        put_varint(inner.total as u64, &mut bytes);
        for child in inner.children.iter().filter(|child| **child != NodeId::EMPTY) {
            bytes.extend_from_slice(&child.0);
        }
        Self(bytes.into())
    }

    pub(super) fn snapshot(members: NodeId, other: NodeId) -> Self {
        let mut bytes = Vec::with_capacity(33);
        bytes.push(SNAPSHOT);
        bytes.extend_from_slice(&members.0);
        bytes.extend_from_slice(&other.0);
        Self(bytes.into())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:?}, {} bytes)", self.id(), self.0.len())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn id(&mut self) -> Option<NodeId> {
        let (id, rest) = self.bytes.split_first_chunk::<16>()?;
        self.bytes = rest;
        Some(NodeId(*id))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn zigzag(&mut self) -> Option<i64> {
        let number = self.varint()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7F) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_zigzag(number: i64, out: &mut Vec<u8>) {
    put_varint((number << 1).cast_unsigned() ^ (number >> 63).cast_unsigned(), out);
}
