//! Logistic regression: the design matrix, Newton's method on it, and linfa as the estimator of
//! record. Knows numbers only: no deals, no columns with names.

mod cholesky;
pub mod design;
pub mod estimator;
mod newton;
pub mod shrinkage;
