//! The events: one for each measurement.
#![deny(unsafe_code)]

use crate::kernel::etw::{Channel, EventProvider, Listen};
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolArc;
use crate::logic::layers::Guid;
use crate::logic::tracelogging::{
    Description, Event, Field, FieldValue, Payload, TEXT, Type, metadata, metadata_size, traits,
};
use crate::measure::State;

const NAME: &str = "HushportConformance";

/// The GUID is computed from the name as EventSource does.
const ID: Guid = 0x8b0f7921_2386_5309_28b0_c6fab993f106;

/// The provider.
pub static PROVIDER: EventProvider =
    EventProvider { id: ID, traits: &traits::<{ NAME.len() + 3 }>(NAME), events: &[Measured::DESCRIPTION] };

/// The bytes of a value that one event holds.
pub const PART: usize = 96;

/// A measurement, or a part of a long one.
pub struct Measured<'a> {
    /// The name of the value.
    pub name: Ascii<'a>,
    /// Which part of the value it is, from 0 on.
    pub part: u32,
    /// The part.
    pub value: Ascii<'a>,
}

/// A text of ASCII characters.
#[derive(Clone, Copy)]
pub struct Ascii<'a>(pub &'a [u8]);

impl FieldValue for Ascii<'_> {
    const TYPE: Type = TEXT;

    fn put(&self, to: &mut Payload<'_>) {
        to.put_counted(&[self.0]);
    }
}

const FIELDS: &[Field] =
    &[Field::of::<Ascii<'_>>("Name"), Field::of::<u32>("Part"), Field::of::<Ascii<'_>>("Value")];

impl Event for Measured<'_> {
    const INDEX: usize = 0;
    const DESCRIPTION: Description = Description {
        #[cfg(not(windows))]
        name: "Measured",
        // TRACE_LEVEL_INFORMATION (evntrace.h).
        level: 4,
        keyword: 1,
        per_second: None,
        metadata: &metadata::<{ metadata_size("Measured", FIELDS) }>("Measured", FIELDS),
    };

    fn put(&self, _: u32, to: &mut Payload<'_>) {
        self.name.put(to);
        FieldValue::put(&self.part, to);
        self.value.put(to);
    }
}

/// A session that asks for the state gets nothing: the values are in the registry.
pub struct NoState;

impl Listen for NoState {
    type Shared = State;

    fn channel(state: &State) -> &PoolArc<Channel> {
        &state.channel
    }

    fn rundown(_: &State, _: &Channel, _: &Passive) {}
}
