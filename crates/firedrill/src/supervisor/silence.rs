//! When a process that answers nobody is helped, and when it is given up. Pure.

use std::time::Duration;

/// Between an answer, or its absence, and the next question.
pub const ASK_EVERY: Duration = Duration::from_millis(500);
/// Questions in a row without an answer after which a process is told to go on: somebody may have stopped it. About 10 s
/// where each waits in vain; one that is refused at once counts as well, and sooner.
const CONTINUE: u32 = 4;
/// After which a process that does nothing is ended, to be started again. About 25 s: a machine that is busy is no reason to
/// make it busier.
const END: u32 = 10;
/// The same for a process that uses the processor between the questions. It lives and may only be slow, so that silence proves
/// little; but it may also spin for ever. About two minutes.
const END_BUSY: u32 = 48;

/// Questions in a row that a process has not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    asked: u32,
    idle: u32,
}

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
    /// It has not answered once more; `busy`: it used the processor since the last question.
    pub fn lasts(&mut self, busy: bool) -> Step {
        self.asked = self.asked.saturating_add(1);
        if !busy {
            self.idle = self.idle.saturating_add(1);
        }
        match (self.asked, self.idle) {
            (END_BUSY.., _) | (_, END..) => Step::End,
            (CONTINUE, _) => Step::Continue,
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
        let steps: Vec<_> = (0..11).map(|_| silence.lasts(false)).collect();
        assert_eq!(steps.iter().position(|step| *step == Step::Continue), Some(3));
        assert_eq!(steps.iter().position(|step| *step == Step::End), Some(9));
        assert_eq!(steps.iter().filter(|step| **step == Step::Wait).count(), 8);
        assert_eq!(steps[10], Step::End, "until it is gone");
    }

    #[test]
    fn a_process_that_works_is_given_more_time_but_not_for_ever() {
        let ends = |busy: fn(u32) -> bool| {
            let mut silence = Silence::default();
            (1..).find(|question| silence.lasts(busy(*question)) == Step::End)
        };
        assert_eq!(ends(|_| false), Some(10));
        assert_eq!(ends(|_| true), Some(48));
        // It worked at first, and then no more.
        assert_eq!(ends(|question| question <= 5), Some(15));
        assert_eq!(ends(|question| question % 2 == 0), Some(19));
    }
}
