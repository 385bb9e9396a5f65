//! The native build, held to the same as the image, and to the image itself.

mod bounds;
mod differential;
mod events;
mod layers;
mod seeded;
mod storms;
