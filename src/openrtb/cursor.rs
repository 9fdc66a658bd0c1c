//! Walks a parsed document and its untouched bytes in step, so that every value knows where it stands. Knows JSON
//! and which members of an object we read; no rule of OpenRTB.
//!
//! simd-json's tape has values but no places. Its first stage has places: the offset of each structural character,
//! that is of `{ } [ ] : ,`, of each string's opening quote and of the first character of each other scalar. In a
//! well-formed document the two lists run in step: one mark for each node of the tape, and around them those of the
//! punctuation, whose number follows from the lengths of objects and arrays. So no second scan of the bytes is
//! needed, and a key is compared as it was unescaped: `"\u0074max"` is `tmax` here too.

use super::fields::Table;
use super::seen::{Given, Seen};
use super::{NumberText, Span};
use simd_json::{Node, StaticNode};

/// A place in a document: always in front of a value, except while [`Members`] or [`Elements`] move it.
pub(super) struct Cursor<'p, 'a> {
    body: &'a [u8],
    nodes: &'p [Node<'a>],
    /// Offsets of the structural characters.
    marks: &'p [u32],
    node: usize,
    mark: usize,
}

impl<'p, 'a> Cursor<'p, 'a> {
    /// `nodes` and `marks` must come from one well-formed document equal to `body`.
    pub(super) fn new(body: &'a [u8], nodes: &'p [Node<'a>], marks: &'p [u32]) -> Self {
        Self {
            body,
            nodes,
            marks,
            node: 0,
            mark: 0,
        }
    }

    /// The same document from its top.
    pub(super) fn restart(&self) -> Self {
        Self::new(self.body, self.nodes, self.marks)
    }

    /// Where the value of this member stands, in the object in front. Slow: passes all others one by one.
    pub(super) fn member(mut self, name: &str) -> Option<Span> {
        let Node::Object { len, .. } = self.peek() else {
            return None;
        };
        (self.node, self.mark) = (self.node + 1, self.mark + 1);
        for _ in 0..len {
            let key = self.peek();
            (self.node, self.mark) = (self.node + 1, self.mark + 2);
            let span = self.skip_span();
            self.mark += 1;
            if key == Node::String(name) {
                return Some(span);
            }
        }
        None
    }

    /// The value in front.
    pub(super) fn peek(&self) -> Node<'a> {
        self.nodes[self.node]
    }

    /// Names the value in front; see [`path`].
    pub(super) fn position(&self) -> usize {
        self.node
    }

    /// Everything has been passed. True once the top level has; anything else means that simd-json's two lists are
    /// not in step as this module takes them to be.
    pub(super) fn is_at_end(&self) -> bool {
        self.node == self.nodes.len() && self.mark == self.marks.len()
    }

    /// Where the value in front begins.
    pub(super) fn offset(&self) -> usize {
        self.marks[self.mark] as usize
    }

    /// Moves behind the value.
    pub(super) fn skip(&mut self) {
        match self.peek() {
            // Nearly all values are these.
            Node::String(_) | Node::Static(_) => (self.node, self.mark) = (self.node + 1, self.mark + 1),
            Node::Object { count, .. } | Node::Array { count, .. } => self.skip_container(count),
        }
    }

    fn skip_container(&mut self, descendants: usize) {
        let end = self.node + 1 + descendants;
        // Each node has a mark of its own, and each container those of its punctuation.
        self.mark += self.nodes[self.node..end]
            .iter()
            .map(|node| 1 + punctuation(*node))
            .sum::<usize>();
        self.node = end;
    }

    /// Moves behind the value and tells where it stood. Not for the top level, which has no mark behind it.
    pub(super) fn skip_span(&mut self) -> Span {
        let start = self.offset();
        self.skip();
        self.span_from(start)
    }

    /// The value that began at `start` and was just passed. Behind it comes a comma or a closing bracket, perhaps
    /// after whitespace.
    pub(super) fn span_from(&self, start: usize) -> Span {
        let end = self.marks[self.mark] as usize;
        let space = self.body[start..end]
            .iter()
            .rev()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count();
        Span {
            start,
            end: end - space,
        }
    }

    pub(super) fn bytes(&self, span: Span) -> &'a [u8] {
        &self.body[span.range()]
    }

    /// Moves behind the value; its text and place if it is a number.
    pub(super) fn number(&mut self) -> Option<(NumberText<'a>, Span)> {
        let value = self.peek();
        let span = self.skip_span();
        is_number(value).then(|| (NumberText(self.bytes(span)), span))
    }
}

/// The members of one object that are in its [`Table`] and not null, in their order.
///
/// A member that its table does not know and a null are passed over (OpenRTB 2.6 §2.6, §2.3). A required member that
/// is an empty string or array counts as missing. A member that is there twice is remembered, and given once.
pub(super) struct Members {
    pub(super) seen: Seen,
    left: usize,
}

impl Members {
    /// Enters the object in front of the cursor; `None` if it is none.
    pub(super) fn enter(cursor: &mut Cursor<'_, '_>, table: &'static Table) -> Option<Self> {
        let Node::Object { len, .. } = cursor.peek() else {
            return None;
        };
        enter(cursor, len);
        Some(Self {
            seen: Seen::new(table),
            left: len,
        })
    }

    /// Moves in front of the next member's value and returns its index in the table; behind the object when there
    /// is none. The caller moves behind the value.
    pub(super) fn next(&mut self, cursor: &mut Cursor<'_, '_>) -> Option<usize> {
        loop {
            cursor.mark += 1;
            self.left = self.left.checked_sub(1)?;
            let Node::String(key) = cursor.peek() else {
                unreachable!("an object's tape begins with a key")
            };
            cursor.node += 1;
            cursor.mark += 2;
            let given = match cursor.peek() {
                Node::Static(StaticNode::Null) => Given::Null,
                Node::String("") | Node::Array { len: 0, .. } => Given::Empty,
                _ => Given::Full,
            };
            match self.seen.table().find(key) {
                Some(index) if self.seen.take(index, cursor.node, given) => return Some(index),
                _ => cursor.skip(),
            }
        }
    }
}

/// The elements of one array.
pub(super) struct Elements {
    left: usize,
}

impl Elements {
    /// Enters the array in front of the cursor; `None` if it is none.
    pub(super) fn enter(cursor: &mut Cursor<'_, '_>) -> Option<Self> {
        let Node::Array { len, .. } = cursor.peek() else {
            return None;
        };
        enter(cursor, len);
        Some(Self { left: len })
    }

    /// How many are still to come.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Moves in front of the next element, which the caller then passes; false behind the array.
    pub(super) fn next(&mut self, cursor: &mut Cursor<'_, '_>) -> bool {
        cursor.mark += 1;
        let more = self.left > 0;
        self.left = self.left.saturating_sub(1);
        more
    }
}

/// Enters a container. From here on each member or element passes one mark before it: the opening bracket, or the comma
/// behind the one before. The end passes the closing bracket, and so an empty container passes its opening one here.
fn enter(cursor: &mut Cursor<'_, '_>, len: usize) {
    cursor.node += 1;
    cursor.mark += usize::from(len == 0);
}

/// How many nodes belong to this one.
fn descendants(node: Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => count,
        Node::String(_) | Node::Static(_) => 0,
    }
}

/// How many marks a container has beside those of its nodes: its closing bracket, a comma between two, and in an
/// object a colon for each member.
fn punctuation(node: Node<'_>) -> usize {
    match node {
        Node::Object { len, .. } => (2 * len).max(1),
        Node::Array { len, .. } => len.max(1),
        Node::String(_) | Node::Static(_) => 0,
    }
}

pub(super) fn is_number(node: Node<'_>) -> bool {
    matches!(
        node,
        Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_))
    )
}

/// The value of a number without a fraction, at most the largest that fits. No price is read this way.
pub(super) fn whole(node: Node<'_>) -> Option<i64> {
    match node {
        Node::Static(StaticNode::I64(number)) => Some(number),
        Node::Static(StaticNode::U64(number)) => Some(i64::try_from(number).unwrap_or(i64::MAX)),
        Node::Static(StaticNode::F64(number)) => super::whole(number),
        _ => None,
    }
}

/// How to find the value at `position`, for a message: `imp[0].video.mimes`. Walks the document from its top, so that
/// nobody has to keep a path who meets no error.
pub(super) fn path(nodes: &[Node<'_>], position: usize) -> String {
    let mut path = String::new();
    let mut node = 0;
    while node < position {
        let is_object = matches!(nodes[node], Node::Object { .. });
        let (mut child, mut index) = (node + 1, 0);
        loop {
            let value = child + usize::from(is_object);
            let end = value + 1 + descendants(nodes[value]);
            if position < end {
                extend_path(&mut path, nodes[child], is_object, index);
                node = value;
                break;
            }
            (child, index) = (end, index + 1);
        }
    }
    path
}

fn extend_path(path: &mut String, key: Node<'_>, is_object: bool, index: usize) {
    match key {
        Node::String(key) if is_object => {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key);
        }
        _ => path.push_str(&format!("[{index}]")),
    }
}
