//! Logistic regression on 100,000 rows of 120 columns, beside scikit-learn's newton-cholesky.
//!
//! `cargo bench --bench solver`; with `python3` and scikit-learn installed both are timed in turn, on
//! the same numbers, and the mean losses compared. Prints medians; then how long 2,000,000 rows take.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use dealrank::learning::design::{Block, Design};
use dealrank::learning::estimator::{self, Problem};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROWS: usize = 100_000;
/// More than a company closes in its life.
const MANY_ROWS: usize = 2_000_000;
const NUMBERS: usize = 8;
/// Levels of each category, as owners, campaigns, industries, sources and the like have them.
const LEVELS: [usize; 6] = [40, 25, 20, 12, 10, 5];
const ALPHA: f64 = 1.0;
const ROUNDS: usize = 7;

/// Answers each line on its input with the seconds and the mean loss of one fit.
const PEER: &str = r#"
import sys, time, warnings, numpy as np
from sklearn.linear_model import LogisticRegression
warnings.filterwarnings("ignore")
folder, width = sys.argv[1], int(sys.argv[2])
x = np.fromfile(folder + "/x.f64").reshape(-1, width)
y = np.fromfile(folder + "/y.f64")
print("ready", flush=True)
for _ in sys.stdin:
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-6, max_iter=100)
    start = time.perf_counter()
    model.fit(x, y)
    seconds = time.perf_counter() - start
    eta = x @ model.coef_[0] + model.intercept_[0]
    loss = np.logaddexp(0, np.where(y == 1, -eta, eta)).mean()
    loss += 0.5 * (model.coef_[0] ** 2).sum() / len(y)
    print(seconds, repr(float(loss)), flush=True)
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (design, won) = made_up(ROWS);
    let folder = tempfile::tempdir()?;
    let mut peer = start_peer(folder.path(), &design, &won);
    let problem = Problem {
        design: &design,
        won: &won,
        weights: None,
        alpha: ALPHA,
    };
    let (mut searching, mut confirmed, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut loss, mut their_loss) = (f64::NAN, None);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let fitted = estimator::optimum(problem, None)?;
        searching.push(start.elapsed().as_secs_f64());
        loss = problem.mean_objective(&fitted.params());
        let start = Instant::now();
        let fitted = estimator::fit(problem, None)?;
        confirmed.push(start.elapsed().as_secs_f64());
        assert!(fitted.is_confirmed, "linfa agrees");
        if let Some(peer) = &mut peer {
            let (seconds, mean) = ask(peer)?;
            theirs.push(seconds);
            their_loss = Some(mean);
        }
    }
    println!(
        "{ROWS} rows, {} columns, {ROUNDS} rounds; medians",
        design.width()
    );
    let ours = median(&mut searching);
    println!("Newton on codes                {ours:.4} s, mean loss {loss:.12}");
    println!(
        "and confirmed by linfa         {:.4} s",
        median(&mut confirmed)
    );
    match their_loss {
        Some(their_loss) => {
            let theirs = median(&mut theirs);
            println!("scikit-learn newton-cholesky   {theirs:.4} s, mean loss {their_loss:.12}");
            println!(
                "{:.1} times as fast; the losses differ by {:.1e}",
                theirs / ours,
                loss - their_loss
            );
        }
        None => println!("scikit-learn is not installed: nothing to compare with"),
    }
    if let Some(mut peer) = peer {
        drop(peer.stdin.take());
        peer.wait()?;
    }
    let (design, won) = made_up(MANY_ROWS);
    let many = Problem {
        design: &design,
        won: &won,
        weights: None,
        alpha: ALPHA,
    };
    let start = Instant::now();
    let fitted = estimator::optimum(many, None)?;
    println!(
        "{MANY_ROWS} rows                   {:.4} s, gradient {:.1e}",
        start.elapsed().as_secs_f64(),
        fitted.gradient_max
    );
    Ok(())
}

fn made_up(rows: usize) -> (Design, Vec<bool>) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut eta = vec![-1.0; rows];
    let mut blocks = Vec::new();
    for _ in 0..NUMBERS {
        let weight = rng.random_range(-0.3..0.3);
        let values: Vec<f64> = (0..rows).map(|_| rng.random_range(-1.7..1.7)).collect();
        eta.iter_mut()
            .zip(&values)
            .for_each(|(e, v)| *e += weight * v);
        blocks.push(Block::Numeric(values));
    }
    for levels in LEVELS {
        let weights: Vec<f64> = (0..levels).map(|_| rng.random_range(-0.5..0.5)).collect();
        let codes: Vec<u32> = (0..rows).map(|_| code(&mut rng, levels)).collect();
        eta.iter_mut()
            .zip(&codes)
            .for_each(|(e, &c)| *e += weights[c as usize]);
        blocks.push(Block::Codes { codes, levels });
    }
    let won = eta
        .iter()
        .map(|e| rng.random::<f64>() < 1.0 / (1.0 + (-e).exp()))
        .collect();
    (Design::new(rows, blocks).expect("sound blocks"), won)
}

/// Some levels are common, some rare, as in a CRM.
fn code(rng: &mut impl Rng, levels: usize) -> u32 {
    let x: f64 = rng.random();
    (x * x * levels as f64) as u32
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// `None` without Python or scikit-learn.
fn start_peer(folder: &std::path::Path, design: &Design, won: &[bool]) -> Option<Child> {
    let dense = design.to_dense();
    let x = dense
        .rows()
        .into_iter()
        .flat_map(|row| row.to_vec())
        .flat_map(f64::to_le_bytes);
    let y = won
        .iter()
        .flat_map(|&won| f64::from(u8::from(won)).to_le_bytes());
    std::fs::write(folder.join("x.f64"), x.collect::<Vec<u8>>()).ok()?;
    std::fs::write(folder.join("y.f64"), y.collect::<Vec<u8>>()).ok()?;
    let mut peer = Command::new("python3")
        .args(["-c", PEER])
        .arg(folder)
        .arg(design.width().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    match read_line(&mut peer) {
        Ok(line) if line == "ready" => Some(peer),
        _ => {
            peer.wait().ok()?;
            None
        }
    }
}

fn ask(peer: &mut Child) -> Result<(f64, f64), Box<dyn std::error::Error>> {
    peer.stdin.as_mut().ok_or("no input")?.write_all(b"fit\n")?;
    let line = read_line(peer)?;
    let (seconds, loss) = line.split_once(' ').ok_or("not an answer")?;
    Ok((seconds.parse()?, loss.parse()?))
}

/// One line, byte by byte, so that nothing of the next one is taken.
fn read_line(peer: &mut Child) -> std::io::Result<String> {
    use std::io::Read;
    let mut line = String::new();
    let Some(output) = peer.stdout.as_mut() else {
        return Ok(line);
    };
    let mut byte = [0];
    while output.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    Ok(line)
}
