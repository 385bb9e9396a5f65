//! Threads are suspended before any driver instruction while objects go away.

mod policy;
mod rundown;
mod stop;
mod user_threads;
