//! Threads suspended before any instruction of the driver, while what they use
//! is replaced, ends or goes.

mod policy;
mod rundown;
mod stop;
