//! Measures what a layer-2 segment can do, between two ends of any path, and compares overlays in one run.

pub mod compare;
pub mod cpu;
pub mod diff;
pub mod error;
pub mod lab;
pub mod measure;
pub mod progress;
pub mod report;
pub mod result;
pub mod scenario;
pub mod session;
pub mod storm;
pub mod systems;
pub mod table;
pub mod traffic;
