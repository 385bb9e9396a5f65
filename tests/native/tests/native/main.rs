//! The native build, held to the same as the image, and to the image itself.

mod bounds;
mod differential;
mod events;
mod seeded;
mod storms;
