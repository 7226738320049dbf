//! What people see of a drill: lines as things happen, one live line on a terminal, and the summary of a sealed attempt.

pub mod changes;
pub mod figures;
pub mod outcome;
pub mod plans;
pub mod progress;
pub mod screen;
pub mod table;
