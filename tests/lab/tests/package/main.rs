//! The driver package: the INF keeps its rules, the signatures and the catalog
//! hold, and a changed byte is seen.

mod inf;
mod inf_rules;
mod signatures;
