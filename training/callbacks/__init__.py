"""What accompanies a training: logged mixing values, sample pictures, progress and the closing summary."""
