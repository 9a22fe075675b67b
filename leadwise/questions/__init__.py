"""Questions about ECGs whose answers are known, and how well they are answered, beside answers without the right ECG."""
