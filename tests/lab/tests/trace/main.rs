//! `cargo lab trace`: reading captures, replay, verdicts, and the HTML page.

mod captures;
mod formats;
mod groups;
mod hostile;
mod html_page;
mod inference;
mod live_host;
mod random_segments;
mod scans;
mod tcp_sequences;
mod tshark;
mod unusual_formats;
mod verdicts;
