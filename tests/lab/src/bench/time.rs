//! Measures nanoseconds per call, on one processor and on two.
//!
//! Time is the thread's processor time (`CLOCK_THREAD_CPUTIME_ID`), so preemption
//! is not charged to the driver. Each number is the median of several runs.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use machine::image;
use machine::nt::fwp::prepared::{self, Prepared};
use machine::nt::{Irql, Kernel};
use nix::time::{ClockId, clock_gettime};

use super::stage::Stage;
use crate::traffic::Indication;

/// The number and length of runs.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// The number of runs; their median counts.
    pub runs: usize,
    /// The length of a run.
    pub length: Duration,
}

/// Nanoseconds per call on one processor.
pub fn nanoseconds(stage: &Stage, effort: Effort, calls: &[&Prepared]) -> Result<f64> {
    let [time] = in_turn([(stage.kernel(), calls)], effort)?;
    Ok(time)
}

/// Nanoseconds per call on one processor, of calls on several machines. Their runs take
/// turns.
pub fn in_turn<const N: usize>(machines: [(&Kernel, &[&Prepared]); N], effort: Effort) -> Result<[f64; N]> {
    let mut runs = [(); N].map(|()| Vec::new());
    let mut rounds = [(0, 256); N];
    while runs.iter().any(|runs| runs.len() < effort.runs) {
        for (at, (kernel, calls)) in machines.iter().enumerate() {
            let (first, count) = &mut rounds[at];
            let spent = run(kernel, 0, calls, *count, *first)?;
            *first += *count;
            if spent < effort.length / 2 {
                *count *= 2;
            } else {
                runs[at].push(spent.as_nanos() as f64 / *count as f64);
            }
        }
    }
    Ok(runs.map(median))
}

/// Nanoseconds of a classify through the lab's engine, with its checks.
pub fn through_engine(stage: &Stage, effort: Effort, indication: &Indication) -> Result<f64> {
    let (engine, request) = (stage.machine.engine(), indication.request());
    let (mut runs, mut count) = (Vec::new(), 256);
    while runs.len() < effort.runs {
        let begin = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        for _ in 0..count {
            engine.classify(&request);
        }
        let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let spent = Duration::from(end).saturating_sub(begin.into());
        if spent < effort.length / 2 {
            count *= 2;
        } else {
            runs.push(spent.as_nanos() as f64 / f64::from(count));
        }
    }
    Ok(median(runs))
}

/// A batch of calls, and the time until the next one.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// How often the calls are made in a batch.
    pub rounds: u64,
    /// The time from one batch to the next, in milliseconds of the machine's clock.
    pub apart_ms: u64,
}

/// Nanoseconds per call in batches, and the number of calls.
pub fn batches(stage: &Stage, effort: Effort, calls: &[&Prepared], batch: Batch) -> Result<(f64, u64)> {
    let (mut runs, mut first) = (Vec::new(), 0);
    while runs.len() < effort.runs {
        let (mut spent, mut rounds) = (Duration::ZERO, 0);
        while spent < effort.length {
            image::pass_time(batch.apart_ms);
            spent += run(stage.kernel(), 0, calls, batch.rounds, first)?;
            (rounds, first) = (rounds + batch.rounds, first + batch.rounds);
        }
        runs.push(spent.as_nanos() as f64 / rounds as f64);
    }
    Ok((median(runs), first))
}

/// The result of two processors that run at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// Calls per second of both together.
    pub rate: f64,
    /// The share of the time in which both were running, from 0 to 1.
    pub together: f64,
}

/// Calls per second on one processor, and on two at the same time, each with calls
/// of its own.
pub fn rates(stage: &Stage, effort: Effort, calls: [&[&Prepared]; 2]) -> Result<(f64, Pair)> {
    let rounds =
        (effort.length.as_nanos() as f64 / nanoseconds(stage, effort, calls[0])?.max(0.1)) as u64 + 1;
    let one = median((0..effort.runs).map(|_| alone(stage, calls[0], rounds)).collect::<Result<_>>()?);
    let pairs = (0..effort.runs).map(|_| both(stage, calls, rounds)).collect::<Result<Vec<_>>>()?;
    let rate = median(pairs.iter().map(|pair| pair.rate).collect());
    let together = median(pairs.iter().map(|pair| pair.together).collect());
    Ok((one, Pair { rate, together }))
}

fn alone(stage: &Stage, calls: &[&Prepared], rounds: u64) -> Result<f64> {
    Ok(rounds as f64 / run(stage.kernel(), 0, calls, rounds, 0)?.as_secs_f64())
}

fn both(stage: &Stage, calls: [&[&Prepared]; 2], rounds: u64) -> Result<Pair> {
    let barrier = Barrier::new(2);
    let on = |processor: usize| -> Result<(Duration, Duration)> {
        barrier.wait();
        let begin = Instant::now();
        let spent = run(stage.kernel(), processor as u32, calls[processor], rounds, processor as u64)?;
        Ok((spent, begin.elapsed()))
    };
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| on(1));
        (on(0), second.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    });
    let (first, second) = (first?, second?);
    let rate = [first, second].iter().map(|(spent, _)| rounds as f64 / spent.as_secs_f64()).sum();
    let share = |(spent, passed): (Duration, Duration)| spent.as_secs_f64() / passed.as_secs_f64().max(1e-9);
    Ok(Pair { rate, together: share(first).min(share(second)).min(1.0) })
}

fn run(kernel: &Kernel, processor: u32, calls: &[&Prepared], rounds: u64, first: u64) -> Result<Duration> {
    image::pass_time(1);
    kernel.on_processor(processor, Irql::DISPATCH, |kernel| {
        let begin = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        prepared::run(kernel, calls, rounds, first).map_err(|stop| anyhow!("{stop}"))?;
        let end = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        Ok(Duration::from(end).saturating_sub(begin.into()))
    })
}

/// The median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
