//! When a process that answers nobody is helped, and when it is given up. Pure.

use std::time::Duration;

/// Between an answer, or its absence, and the next question.
pub const ASK_EVERY: Duration = Duration::from_millis(500);
/// Questions in a row without an answer after which a process is told to go on: somebody may have stopped it. About 10 s
/// where each waits in vain; one that is refused at once counts as well, and sooner.
const CONTINUE: u32 = 4;
/// After which it is ended, to be started again. About 25 s: a machine that is busy is no reason to make it busier.
const END: u32 = 10;

/// Questions in a row that a process has not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence(u32);

/// What to do after one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask again.
    Wait,
    /// SIGCONT: costs nothing, and no request where it helps.
    Continue,
    /// SIGKILL.
    End,
}

impl Silence {
    /// It has not answered once more.
    pub fn lasts(&mut self) -> Step {
        self.0 = self.0.saturating_add(1);
        match self.0 {
            CONTINUE => Step::Continue,
            END.. => Step::End,
            _ => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_to_go_on_once_before_it_is_given_up() {
        let mut silence = Silence::default();
        let steps: Vec<_> = (0..11).map(|_| silence.lasts()).collect();
        assert_eq!(steps.iter().position(|step| *step == Step::Continue), Some(3));
        assert_eq!(steps.iter().position(|step| *step == Step::End), Some(9));
        assert_eq!(steps.iter().filter(|step| **step == Step::Wait).count(), 8);
        assert_eq!(steps[10], Step::End, "until it is gone");
    }
}
