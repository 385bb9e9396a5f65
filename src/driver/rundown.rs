//! The ETW rundown: the driver's state for a session that asks for it.

use super::events::{self, Occasion};
use super::shared::Shared;
use crate::kernel::etw::{Channel, Listen};
use crate::kernel::irql::Passive;
use crate::kernel::pool::PoolArc;

/// Writes the events that describe the driver's state.
pub struct Rundown;

impl Listen for Rundown {
    type Shared = Shared;

    fn channel(shared: &Shared) -> &PoolArc<Channel> {
        &shared.channel
    }

    fn rundown(shared: &Shared, channel: &Channel, irql: &Passive) {
        // Writing is not permitted: the driver has not started yet and will log its
        // state when it has, or `Trace` is 0.
        if channel.permitted() & !events::BEFORE_START == 0 {
            return;
        }
        events::started(channel, Occasion::Rundown, irql);
        events::protection(channel, Occasion::Rundown, &shared.protection(), irql);
        events::policy(channel, Occasion::Rundown, &shared.policies, irql);
        shared.log_counters(irql);
    }
}
