//! Tests of flow records and slots.

mod records;
mod slots;
