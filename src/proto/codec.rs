//! The codec of the gRPC calls: that of prost, behind a look at how much a message would become in memory.
//!
//! A limit on bytes is none on memory: an empty message in a list is two bytes on the wire and up to a thousand in
//! memory. So the fields are counted before anything is made of them.

use std::marker::PhantomData;

use prost::{
    Message,
    bytes::{Buf as _, Bytes},
    encoding::decode_varint,
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// The most fields of a message that hold texts, bytes or messages, at all depths together. A task with the most targets
/// that are read has a third of it.
pub const MOST_FIELDS: u32 = 200_000;
/// How deep prost follows messages in messages.
const DEEPEST: u32 = 100;

/// Whether a message has no more than [`MOST_FIELDS`].
///
/// Knows no types, so a text that looks like a message counts as one; that is the safe side. Reads each byte once at most.
/// What is malformed is left to whoever decodes it.
pub fn is_moderate(message: &[u8]) -> bool {
    let mut left = MOST_FIELDS;
    count(message, DEEPEST, &mut left).is_some()
}

/// Takes the fields off `left`; `None` when it does not suffice.
fn count(mut rest: &[u8], depth: u32, left: &mut u32) -> Option<()> {
    while let Ok(key) = decode_varint(&mut rest) {
        let length = match key & 7 {
            0 => decode_varint(&mut rest).map(|_| 0),
            1 => Ok(8),
            2 => {
                *left = left.checked_sub(1)?;
                decode_varint(&mut rest)
            }
            5 => Ok(4),
            // The marks of a group, which have nothing behind them.
            3 | 4 => Ok(0),
            _ => return Some(()),
        };
        let Some((value, more)) = length
            .ok()
            .and_then(|length| usize::try_from(length).ok())
            .and_then(|length| rest.split_at_checked(length))
        else {
            return Some(());
        };
        if key & 7 == 2 && depth > 0 {
            count(value, depth - 1, left)?;
        }
        rest = more;
    }
    Some(())
}

/// Encodes `T` and decodes `U`, unless a message has too many fields.
#[derive(Debug, Clone)]
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for Bounded<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Decodes `U`, unless it has too many fields.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        read(bytes).map(Some)
    }
}

fn read<U: Message + Default>(bytes: Bytes) -> Result<U, Status> {
    if !is_moderate(&bytes) {
        return Err(Status::out_of_range(format!(
            "the message of {} bytes has more than {MOST_FIELDS} fields",
            bytes.len()
        )));
    }
    U::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::encoding::{WireType, encode_key, encode_varint};

    use super::*;
    use crate::proto::{
        baton::{BatonServiceGetTasksResponse, Task, task::SyncFullTask, task::TaskType},
        connector::{Resource, ResourceId},
    };

    /// A message with one field that holds another.
    fn around(tag: u32, inner: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        encode_key(tag, WireType::LengthDelimited, &mut message);
        encode_varint(inner.len() as u64, &mut message);
        message.extend(inner);
        message
    }

    #[test]
    fn a_list_of_nothing_is_refused_before_it_is_made() {
        let tasks = around(1, &[]).repeat(8_000_000);
        let targets = around(4, &[]).repeat(8_000_000);
        for bomb in [tasks, around(1, &around(102, &targets))] {
            let refused = read::<BatonServiceGetTasksResponse>(bomb.into()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::OutOfRange);
        }
    }

    #[test]
    fn a_task_with_the_most_targets_is_read() {
        let id = |kind: &str, number| ResourceId {
            resource_type: kind.to_owned(),
            resource: format!("64ae{number:020}"),
            ..ResourceId::default()
        };
        let target = |number| Resource {
            id: Some(id("user", number)),
            parent_resource_id: Some(id("group", number)),
            display_name: "Somebody With A Name".to_owned(),
            ..Resource::default()
        };
        let task = Task {
            id: "one".to_owned(),
            task_type: Some(TaskType::SyncFull(SyncFullTask {
                targeted_sync_resources: (0..10_000).map(target).collect(),
                ..SyncFullTask::default()
            })),
            ..Task::default()
        };
        let bytes = task.encode_to_vec();
        assert_eq!(read::<Task>(bytes.into()).unwrap(), task);
    }

    #[test]
    fn depth_has_an_end() {
        let nested = (0..10_000).fold(Vec::new(), |inner, _| around(1, &inner));
        assert!(is_moderate(&nested));
        assert!(read::<BatonServiceGetTasksResponse>(nested.into()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_counted_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert!(is_moderate(&bytes));
        }
    }
}
