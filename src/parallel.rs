//! Tasks shared out to threads.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The answers to tasks `0..count`, in their order, worked by up to `threads` threads. A task is done
/// by one of them whole, so that answers are the same to the bit whatever the number of threads.
pub fn share<T: Send>(threads: usize, count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if threads.min(count) <= 1 {
        return (0..count).map(task).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            done.push((index, task(index)));
        }
    };
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for other in others {
            match other.join() {
                Ok(answers) => done.extend(answers),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, answer)| answer).collect()
}

/// How many threads there are to share with.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
